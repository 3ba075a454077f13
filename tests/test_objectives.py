"""Objectives as strings: which there are, the front in several of them, its picture and its history."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autotc.errors import SpecError
from autotc.export import Member, chart, front
from autotc.history import history
from autotc.metrics import METRICS, OBJECTIVES, parse_objectives
from autotc.policy import ModelRef, Number, Policy, Stage
from autotc.search.objectives import told
from autotc.search.spec import SearchSpec, differences, fingerprint

MODEL = ModelRef(family="qwen2_5_vl", id="m", decoder_layers=28, vision_blocks=32)
CUT = Policy(model=MODEL, stages=(Stage(site="projector", reducer="random", keep=0.5),))


def member(
    trial: int | str,
    quality: float,
    cost: float,
    kv: float,
    *,
    split: str = "search",
    n: int = 64,
    policy: Policy = CUT,
    **figures: float,
) -> Member:
    measured = {"quality": quality, **figures}
    numbers = [
        Number(name=k, value=v, unit="accuracy", kind="measured", on="m", split=split, stderr=0.02, n=n)
        for k, v in measured.items()
    ]
    costs = {"tflops_exact": cost, "tflops_literature": cost / 2, "kv_bytes": kv * 2**30}
    numbers += [Number(name=k, value=v, unit="u", kind="estimated", on="m") for k, v in costs.items()]
    return Member(trial, None if isinstance(trial, int) else trial, policy, tuple(numbers))


FULL = member("uncompressed", 0.9, 10.0, 4.0, policy=Policy(model=MODEL))
TRIALS = [
    member(0, 0.6, 5.0, 1.0),
    member(1, 0.5, 6.0, 0.5),
    member(2, 0.5, 6.0, 2.0),
    member(3, 0.4, 4.0, 3.0),
]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("qualty", "kv_gib"), "unknown metric 'qualty'. Did you mean 'quality'"),
        (("quality",), "1 given; a front needs 2 to 4"),
        (("quality", "agreement", "kl", "kv_gib", "tflops_exact"), "5 given; a front needs 2 to 4"),
        (("quality", "kv_gib", "quality"), "quality and quality are the same"),
        (("quality", "kv_gib", "kv_bytes"), "kv_gib and kv_bytes are the same"),
        (("quality", "next_question"), "no cost is among them"),
        (("tflops_exact", "kv_gib"), "only costs, and then keeping nothing wins"),
    ],
)
def test_objectives_that_make_no_front_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=r"^--objective: ") as error:
        SearchSpec.from_options({"model": "m", "objectives": names})
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_objectives_stand_in_one_order_and_make_another_study() -> None:
    assert parse_objectives(()) == OBJECTIVES
    assert [m.name for m in parse_objectives(("kv_gib", "tflops_exact", "quality"))] == [
        "quality",
        "tflops_exact",
        "kv_gib",
    ]

    def document(*names: str) -> dict:
        spec = SearchSpec(model="m", objectives=names)
        return spec.document(spec.parsed_workload())

    plain = document()
    assert fingerprint(document("tflops_exact", "quality")) == fingerprint(plain)
    more = document("quality", "tflops_exact", "kv_gib")
    assert fingerprint(more) == fingerprint(document("kv_gib", "quality", "tflops_exact"))
    assert fingerprint(more) != fingerprint(plain)
    assert any(line.startswith("objectives was []") for line in differences(plain, more))
    # studies stored before there were objectives go on
    del plain["objectives"]
    assert fingerprint(plain) == fingerprint(document())
    assert differences(plain, document()) == []


def test_every_figure_that_is_stored_has_a_direction() -> None:
    better = {m.name for m in METRICS.values() if m.maximise}
    assert better == {"quality", "worst_group", "agreement", "next_question", "grounded"}


def test_a_sampler_is_told_the_worst_where_nothing_was_measured() -> None:
    aims = parse_objectives(("quality", "kl", "kv_gib"))
    assert told({"quality": 0.5, "kl": 0.1}, {"kv_bytes": 2.0**29}, aims) == (0.5, 0.1, 0.5)
    assert told({"quality": None}, {"kv_bytes": 2.0**30}, aims) == (0.0, 12.0, 1.0)
    assert told({}, {"tflops_exact": 3.0}) == (0.0, 3.0)


def test_the_front_goes_by_all_objectives() -> None:
    assert [m.trial for m in front(TRIALS)[0]] == [3, 0]
    three = parse_objectives(("quality", "tflops_exact", "kv_gib"))
    assert [m.trial for m in front(TRIALS, objectives=three)[0]] == [3, 0, 1]
    two = parse_objectives(("quality", "kv_gib"))
    assert [m.trial for m in front(TRIALS, objectives=two)[0]] == [0, 1]
    # what nobody measured is on no front
    assert front(TRIALS, objectives=parse_objectives(("agreement", "kv_gib")))[0] == []
    some = [*TRIALS, member(4, 0.1, 9.0, 9.0, agreement=0.3)]
    assert [m.trial for m in front(some, objectives=parse_objectives(("agreement", "kv_gib")))[0]] == [4]


def test_a_cost_is_shown_in_its_own_unit_and_as_measured_where_it_was() -> None:
    found = TRIALS[0].measure(METRICS["kv_gib"])
    assert found is not None and (found.name, found.value, found.unit) == ("kv_gib", 1.0, "GiB a request")
    assert TRIALS[0].point(parse_objectives(("quality", "kv_gib")), "search") == (0.6, 1.0)
    assert TRIALS[0].point(parse_objectives(("quality", "latency_ms")), "search") is None


def test_the_picture_shows_the_two_that_are_asked_for(tmp_path: Path) -> None:
    kv = METRICS["kv_gib"]
    drawn = chart([*TRIALS, FULL], TRIALS[:1], "search", "t", "s", kv, METRICS["quality"], stairs=False)
    assert [(p.cost, p.quality) for p in drawn.points] == [
        (m.point((kv,), "search")[0], m.value("quality")) for m in [*TRIALS, FULL]
    ]
    assert (drawn.cost_name, drawn.quality_name) == ("kv (GiB a request)", "quality on search")
    lines = {t.name: t.mode for t in drawn.figure().data}
    assert lines["front"] == "markers"
    assert {t.name: t.mode for t in chart(TRIALS, TRIALS, "search", "t", "s").figure().data} == {
        "front": "lines+markers"
    }
    drawn.write(tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_the_history_is_the_share_of_the_volume_after_each_trial() -> None:
    found = history([FULL, *TRIALS], OBJECTIVES)
    assert found is not None
    assert found.reference == {"quality": 0.0, "tflops_exact": 10.0}
    assert found.ideal == {"quality": 0.9, "tflops_exact": 0.0}
    # 0.6 x 5 of 0.9 x 10, and from the last one 0.4 x 1 more
    assert found.share == pytest.approx([3 / 9, 3 / 9, 3 / 9, 3.4 / 9])
    three = history([FULL, *TRIALS], parse_objectives(("quality", "tflops_exact", "kv_gib")))
    assert three is not None and three.reference["kv_gib"] == 4.0
    first, second = 0.6 * 5 * 3, 0.5 * 4 * 0.5  # the second reaches farther in the cache alone
    assert np.array(three.share[:3]) * (0.9 * 10 * 4) == pytest.approx(
        [first, first + second, first + second]
    )
    assert three.as_dict()["after"][0] == {"trial": 0, "share": pytest.approx(9 / 36)}


def test_what_is_over_a_limit_or_was_stopped_early_adds_nothing() -> None:
    rows = [FULL, *TRIALS]
    limited = history(rows, OBJECTIVES, lambda costs: costs["tflops_exact"] < 5)
    assert limited is not None and limited.share == pytest.approx([0, 0, 0, 0.4 * 6 / 9])
    stopped = history([FULL, member(0, 0.8, 1.0, 1.0, n=32), TRIALS[1]], OBJECTIVES)
    assert stopped is not None and stopped.share == pytest.approx([0, 0.5 * 4 / 9])
    assert history(TRIALS, OBJECTIVES) is None
    assert history([FULL], OBJECTIVES) is None
