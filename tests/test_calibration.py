"""The proxy against the tables: scoring, chance, agreement of sources, verdicts."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from autotc import calibration
from autotc.calibration import analysis as an
from autotc.calibration import command, study
from autotc.calibration import published as pub
from autotc.calibration.frozen import frozen
from autotc.calibration.methods import METHODS, SEEDS, UNMAPPED, plan, published_on
from autotc.calibration.run import Fresh, Measured
from autotc.errors import SpecError

HERE = Path(__file__).parents[1] / "studies" / "calibration"


def measured(quality: dict[str, float], proxy: str = "llava-tiny", n: int = 400) -> Measured:
    """Return outcomes in which each method is right on the first share of the examples, at all budgets alike."""
    keys = [(name, b) for name in quality for b in pub.BUDGETS]
    return Measured(
        proxy=proxy,
        frozen=frozen(proxy),
        image=np.array([f"scene-{i // 2}" for i in range(n)]),
        full=np.ones(n, np.uint8),
        blind=np.zeros(n, np.uint8),
        policy=np.array([f"policy-{i}" for i in range(len(keys))]),
        method=np.array([name for name, _ in keys]),
        budget=np.array([b for _, b in keys]),
        seed=np.zeros(len(keys), int),
        correct=np.array([[i < quality[name] * n for i in range(n)] for name, _ in keys], np.uint8),
    )


def ordered(best_first: list[str]) -> dict[str, float]:
    return {name: 0.9 - 0.03 * i for i, name in enumerate(best_first)}


# the yardstick's own order, and every other method behind
RIGHT = ["VisionZip", "DivPrune", "VisPruner", "SparseVLM", "PyramidDrop", "ToMe", "FastV"]
REST = [m.name for m in METHODS if m.name not in RIGHT]
WRONG = RIGHT[::-1]


# --- figures ---


def test_retention_is_the_ratio_of_means() -> None:
    full = np.array([1, 1, 1, 0, 1, 0, 1, 1], np.uint8)
    right = np.array([1, 0, 1, 1, 0, 0, 1, 1], np.uint8)
    other = np.array([1, 1, 1, 1, 0, 0, 1, 1], np.uint8)
    base = measured({"random": 0.5}, n=8)
    two_draws = replace(
        base,
        full=full,
        method=np.array(["random", "random"]),
        budget=np.full(2, 1 / 9),
        seed=np.arange(2),
        policy=np.array(["a", "b"]),
        correct=np.array([right, other]),
    )
    found = an.retentions(two_draws)["random", 1 / 9]
    assert found.value == pytest.approx(100 * 5.5 / 6)
    assert found.clusters == 4


def test_the_interval_of_a_retention_covers_the_truth() -> None:
    rng, hits, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        hard = np.repeat(rng.random(100), 2)  # questions of one image share how hard it is
        full, right = hard < 0.9, (hard + 0.25 * rng.random(200)) < 0.8
        one = replace(
            measured({"FastV": 0.5}, n=200),
            full=full.astype(np.uint8),
            method=np.array(["FastV"]),
            budget=np.array([1 / 9]),
            policy=np.array(["a"]),
            seed=np.zeros(1, int),
            correct=right[None].astype(np.uint8),
        )
        found = an.retentions(one)["FastV", 1 / 9]
        truth = 100 * 0.675 / 0.9  # P(u + v / 4 < 0.8) = 0.675
        assert found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    assert (
        0.92 <= hits / runs <= 0.98
    )  # 95 % within two standard errors of 400 runs, and a little for small samples


def test_concordance_of_a_right_and_a_wrong_order() -> None:
    pairs = an.cases(pub.yardstick(pub.duels([e for e in pub.entries() if e.family == "llava"])))
    for names, expected in ((RIGHT, 1.0), (WRONG, 0.0)):
        values = {(n, b): v for n, v in ordered(names).items() for b in pub.BUDGETS}
        assert an.scores(pairs, an.by_value(values)).mean() == expected
    same = {(n, b): 1.0 for n in RIGHT for b in pub.BUDGETS}
    assert an.scores(pairs, an.by_value(same)).mean() == 0.5


def test_chance_counts_all_relabellings() -> None:
    budget = 1 / 9
    found = [an.Case(budget, a, b) for a, b in ("ab", "bc", "cd", "ad")]
    values = {(name, budget): float(v) for name, v in zip("abcd", (4, 3, 1, 2), strict=True)}
    observed = an.scores(found, an.by_value(values)).sum()
    totals = []
    for order in permutations((4, 3, 1, 2)):
        again = {(name, budget): float(v) for name, v in zip("abcd", order, strict=True)}
        totals.append(an.scores(found, an.by_value(again)).sum())
    p, shuffles, exact = an.chance(found, values)
    assert (shuffles, exact) == (24, True)
    assert p == pytest.approx(np.mean(np.array(totals) >= observed))
    assert 0 < p < 1


def test_power_is_the_chance_of_the_best_orders() -> None:
    found = an.cases(pub.yardstick(pub.duels([e for e in pub.entries() if e.family == "llava"])))
    best = an.power(found)
    assert best[0] == (13, pytest.approx(130 / 5040))
    values = {(n, b): v for n, v in ordered(RIGHT).items() for b in pub.BUDGETS}
    assert an.chance(found, values)[0] == pytest.approx(best[0][1])
    assert [k for k, _ in best] == [13, 12, 11] and best[1][1] > 0.05


def test_chance_with_many_methods_is_drawn_and_counts_the_observed_one() -> None:
    names = [f"m{i:02}" for i in range(12)]
    found = [an.Case(1 / 9, a, b) for a, b in pairwise(names)]
    values = {(name, 1 / 9): -float(i) for i, name in enumerate(names)}
    p, shuffles, exact = an.chance(found, values)
    assert (shuffles, exact) == (an.SHUFFLES + 1, False)
    assert 1 / shuffles <= p < 1e-4  # 1 of 12! orders is as good


def test_methods_keep_their_budgets_together_when_relabelled() -> None:
    found = [an.Case(b, "a", "b") for b in pub.BUDGETS]
    values = {(n, b): v for n, v in (("a", 2.0), ("b", 1.0)) for b in pub.BUDGETS}
    assert an.chance(found, values)[0] == 0.5  # one of two labellings, not one of eight


def test_interval_knows_that_cases_share_methods() -> None:
    star = [an.Case(1 / 9, f"m{i}", "hub") for i in range(20)]
    apart = [an.Case(1 / 9, f"m{i}", f"n{i}") for i in range(20)]
    right = np.array([1.0, 0.0] * 10)
    wide, narrow = an.share(star, right), an.share(apart, right)
    assert wide.value == narrow.value == 0.5
    for found in (wide, narrow):
        assert found.low is not None and found.high is not None and 0 < found.low < 0.5 < found.high < 1
    assert an.share([], np.array([])).n == 0


def test_held_out_source_is_not_its_own_judge() -> None:
    def duel(source: str, decided: int, better: int) -> pub.Duel:
        return pub.Duel(source, source, 1 / 9, ("a", "b"), better, decided, float(better), (4, 0), 4)

    # x and y decide for a, z leans to b without deciding: x and y are confirmed, z is not
    found = an.held_out([duel("x", 1, 1), duel("y", 1, 1), duel("z", 0, -1)])
    assert {(c.source, c.winner, c.agrees) for c in found} == {
        ("x", "a", 1.0),
        ("y", "a", 1.0),
        ("z", "a", 0.0),
    }
    # only x decides: it is held against nothing, the others against it
    found = an.held_out([duel("x", 1, 1), duel("z", 0, -1)])
    assert {(c.source, c.agrees) for c in found} == {("z", 0.0)}
    # two that decide in opposite ways are each the other's judge
    found = an.held_out([duel("x", 1, 1), duel("y", -1, -1)])
    assert [(c.source, c.agrees) for c in found] == [("x", 0.0), ("y", 0.0)]


@pytest.mark.parametrize("tied", [False, True])
def test_kendall_is_exact(tied: bool) -> None:
    x, y = [1.0, 2, 3, 4, 5], [2.0, 1, 3, 3 if tied else 5, 4]
    tau, p, exact = an.kendall(x, y)
    observed = kendalltau(x, y).statistic
    again = [kendalltau(x, order).statistic for order in permutations(y)]
    assert (tau, exact) == (pytest.approx(observed), True)
    assert p == pytest.approx(np.mean(np.abs(again) >= abs(observed) - 1e-9))


def test_newer_goes_by_the_month_of_the_first_version() -> None:
    assert published_on("FastV") == "2403"
    assert an.newer("VisionZip", "FastV", 1 / 9) == 1
    assert an.newer("ToMe", "FastV", 1 / 9) == 0
    assert an.newer("random", "ToMe", 1 / 9) == 0  # a baseline is older than all
    assert an.newer("FastV", "PruMerge", 1 / 9) == 0.5


# --- what is run ---


@pytest.mark.slow
@pytest.mark.parametrize("model", command.MODELS.values())
def test_every_method_has_a_policy_at_every_budget_and_costs_no_more(model: str) -> None:
    from autotc.adapter import resolve_model
    from autotc.cost import estimate, estimate_tokens
    from autotc.proxies import proxy_folder
    from autotc.workload import parse_workload

    full, load = resolve_model(model).anatomy, parse_workload("vqa")
    folder = proxy_folder(full.family)
    planned, missing = plan(full, resolve_model(str(folder)).anatomy, load)
    assert missing == []
    assert len(planned) == 3 * (len(METHODS) - 2 + 2 * SEEDS)
    assert len({p.policy.id for p in planned}) == len(planned)
    for item in planned:
        if item.method != "downsample":  # grids are coarse: the nearest one stands for the budget
            limit = estimate_tokens(full, load, round(item.budget * 576)).tflops_literature
            assert estimate(item.policy, full, load).tflops_literature <= limit * (1 + 1e-9)


def test_every_name_in_the_tables_is_mapped_or_has_a_reason() -> None:
    known = {m.name for m in METHODS} | set(UNMAPPED)
    assert {e.method for e in pub.entries()} <= known
    assert not {m.name for m in METHODS} & set(UNMAPPED)


def test_scenes_are_those_of_no_search() -> None:
    from autotc.tasks.scenes import Scenes

    mine = {e.image for e in Fresh().examples("held-out", 8)}
    for split in ("search", "selection", "held-out"):
        assert not mine & {e.image for e in Scenes().examples(split, 8)}  # type: ignore[arg-type]
    assert min(Fresh.first_seed.values()) >= max(Scenes.first_seed.values()) + 10**9


def test_outcomes_come_back_from_their_file(tmp_path: Path) -> None:
    before = measured(ordered(RIGHT))
    before.write(tmp_path / "x.npz")
    after = Measured.read(tmp_path / "x.npz")
    assert (after.proxy, after.frozen) == (before.proxy, before.frozen)
    assert np.array_equal(after.correct, before.correct) and after.method.tolist() == before.method.tolist()
    (tmp_path / "y.npz").write_text("no archive")
    with pytest.raises(SpecError, match=r"y\.npz.*run: autotc bench calibrate"):
        Measured.read(tmp_path / "y.npz")


# --- verdicts ---


def test_a_proxy_that_orders_the_yardstick_passes_and_one_that_reverses_it_fails() -> None:
    found = study.calibration(
        [measured(ordered(RIGHT + REST)), measured(ordered(WRONG + REST), "qwen2_5_vl-tiny")]
    )
    good, bad = found["proxies"]["llava-tiny"], found["proxies"]["qwen2_5_vl-tiny"]
    assert good["passed"] is True and all(good["criteria"].values())
    assert (
        good["p"] == good["test"]["p"] == pytest.approx(130 / 5040)
    )  # one claim; 130 orders have all 13 right
    assert bad["passed"] is False and bad["tested_on"] == "all models"
    assert "mechanics demo" in bad["text"] and "mechanics demo" not in good["text"]


def test_claims_are_corrected_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PROXIES", {"llava-tiny": "llava", "qwen2_5_vl-tiny": "llava"})
    both = [measured(ordered(RIGHT + REST)), measured(ordered(RIGHT + REST), "qwen2_5_vl-tiny")]
    found = study.calibration(both)["proxies"]
    assert found["llava-tiny"]["p"] == pytest.approx(2 * 130 / 5040)
    assert found["llava-tiny"]["passed"] is False


def test_a_pass_on_other_models_only_is_no_pass() -> None:
    found = study.calibration([measured(ordered(RIGHT + REST), "qwen2_5_vl-tiny")])["proxies"][
        "qwen2_5_vl-tiny"
    ]
    assert all(found["criteria"].values()) and found["passed"] is None
    assert "could not be made on its own family" in found["text"] and "mechanics demo" in found["text"]


def test_analysis_writes_page_picture_and_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "FILE", tmp_path / "verdict.json")
    calibration._read.cache_clear()
    calibration.publish({"someone-s": {"passed": False}})
    measured(ordered(RIGHT + REST)).write(tmp_path / "llava-tiny.npz")
    result = command.analyse(tmp_path)
    json.dumps(result, allow_nan=False)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "VisionZip over FastV" in page and not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert (tmp_path / "retention.png").stat().st_size > 20_000
    found = calibration.verdict("proxy:llava-tiny")
    assert found is not None and found.passed and found.label == "" and found.advice == ""
    assert found.pairs == 13 and found.concordance == 1.0
    assert set(calibration._read()) == {"someone-s", "llava-tiny"}  # other proxies keep their verdicts
    calibration._read.cache_clear()


def test_outcomes_of_other_weights_are_not_analysed(tmp_path: Path) -> None:
    replace(measured(ordered(RIGHT)), frozen={"weights": "others"}).write(tmp_path / "llava-tiny.npz")
    with pytest.raises(SpecError, match="other weights or scenes"):
        command.analyse(tmp_path)
    with pytest.raises(SpecError, match="no outcomes there"):
        command.analyse(tmp_path / "nowhere")


def test_a_verdict_does_not_outlive_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {
        "llava-tiny": {
            "passed": True,
            "concordance": 1.0,
            "pairs": 13,
            "p": 0.01,
            "ceiling": 0.7,
            "text": "passed",
            "frozen": {**frozen("llava-tiny"), "weights": "before"},
        }
    }
    monkeypatch.setattr(calibration, "_read", lambda: kept)
    found = calibration.verdict("proxy:llava-tiny")
    assert found is not None and found.passed is None and found.label == "mechanics demo"
    assert "run again" in found.text and "No method is recommended" in found.advice


def test_real_models_have_no_verdict_and_unknown_proxies_are_not_calibrated() -> None:
    assert calibration.verdict("Qwen/Qwen2.5-VL-7B-Instruct") is None
    assert calibration.named("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert calibration.named("proxy:someone-s") == "proxy:someone-s (mechanics demo)"


@pytest.mark.parametrize("proxy", command.MODELS)
def test_the_shipped_verdict_is_of_these_scenes_and_weights(proxy: str) -> None:
    known = json.loads(calibration.FILE.read_text(encoding="utf-8"))
    assert known[proxy]["frozen"] == frozen(proxy), (
        f"the scenes, the digits or the weights of {proxy} have changed since its calibration: run it again "
        "(autotc bench calibrate) before any verdict is shown"
    )


@pytest.mark.parametrize("proxy", command.MODELS)
def test_the_shipped_verdict_follows_from_the_outcomes_beside_the_study(proxy: str) -> None:
    kept = Measured.read(HERE / f"{proxy}.npz")
    assert kept.frozen == frozen(proxy)
    test = study.examine(kept)["test"]
    known = json.loads(calibration.FILE.read_text(encoding="utf-8"))[proxy]
    assert known["pairs"] == test["concordance"]["n"] == 13
    assert math.isclose(known["concordance"], test["concordance"]["value"])
    assert math.isclose(known["ceiling"], test["ceiling"]["value"])
