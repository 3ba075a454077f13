"""Constraints as strings, and what they make of a front."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotc.constraints import DEFAULT, Constraint, parse_constraint, parse_constraints, recommending
from autotc.errors import AutotcError, SpecError
from autotc.export import Member, front
from autotc.policy import ModelRef, Number, Policy
from autotc.recommend import insist, recommend
from autotc.search.objectives import broken, violations
from autotc.search.spec import SearchSpec, fingerprint

MODEL = ModelRef(family="qwen2_5_vl", id="m", decoder_layers=28, vision_blocks=32)


def member(
    trial: int, cost: float, quality: float, drop: float | None = None, split: str = "selection"
) -> Member:
    measured = {"quality": quality, "worst_group_drop": drop}
    numbers = [
        Number(name=k, value=v, unit="accuracy", kind="measured", on="m", split=split, stderr=0.02, n=26)
        for k, v in measured.items()
        if v is not None
    ]
    costs = {"tflops_exact": cost, "tflops_literature": cost, "kv_bytes": cost * 2**30}
    numbers += [Number(name=k, value=v, unit="u", kind="estimated", on="m") for k, v in costs.items()]
    return Member(trial, None, Policy(model=MODEL), tuple(numbers))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("worst_group_drop <= 0.05", Constraint("worst_group_drop", 0.05)),
        ("quality>=0.9", Constraint("quality", 0.9, ">=")),
        ("  kv_gib   <= 1e-1 ", Constraint("kv_gib", 0.1)),
        ("kl <= 0", Constraint("kl", 0.0)),
    ],
)
def test_a_constraint_is_read_and_written_back(text: str, expected: Constraint) -> None:
    assert parse_constraint(text) == expected
    assert parse_constraint(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worst_group_drop", "not of the form NAME <= NUMBER"),
        ("quality < 0.9", "not of the form"),
        ("quality == 0.9", "not of the form"),
        ("worst_groop_drop <= 0.1", "unknown figure 'worst_groop_drop'. Did you mean 'worst_group_drop'"),
        ("kv_gb <= 1", "unknown figure 'kv_gb'. Did you mean 'kv_gib'"),
        ("quality >= many", "'many' is not a finite number"),
        ("quality >= nan", "'nan' is not a finite number"),
        ("memory_gib <= inf", "'inf' is not a finite number"),
        ("quality >= 1.5", "'quality >= 1.5' can never hold: quality lies between 0 and 1"),
        ("kl <= -0.1", "'kl <= -0.1' can never hold"),
    ],
)
def test_what_cannot_be_read_or_met_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=r"^--constraint: ") as error:
        parse_constraint(text)
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_contradictions_are_refused_naming_both() -> None:
    with pytest.raises(SpecError, match=r"'quality <= 0.5' and 'quality >= 0.9' contradict one another"):
        parse_constraints(["quality >= 0.9", "quality <= 0.5"])
    assert len(parse_constraints(["quality >= 0.5", "quality <= 0.5"])) == 2
    with pytest.raises(SpecError, match=r"'tflops_literature <= 800' and 'tflops_literature >= 900'"):
        SearchSpec.from_options(
            {"model": "m", "max_tflops": 800.0, "constraints": ("tflops_literature >= 900",)}
        )
    with pytest.raises(SpecError, match="unknown figure 'worst_drop'"):
        SearchSpec.from_options({"model": "m", "constraints": ("worst_drop <= 0.1",)})


def test_a_search_file_may_hold_constraints_and_is_named_in_messages(tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    file.write_text('model = "m"\nconstraints = ["quality >= 0.9"]\n')
    assert SearchSpec.from_toml(file).constraints == ("quality >= 0.9",)
    file.write_text('model = "m"\nconstraints = ["quality => 0.9"]\n')
    with pytest.raises(SpecError, match=r"search\.toml: --constraint: 'quality => 0.9' is not of the form"):
        SearchSpec.from_toml(file)


def test_constraints_do_not_make_another_study() -> None:
    def of(*constraints: str) -> str:
        spec = SearchSpec(model="m", constraints=constraints)
        return fingerprint(spec.document(spec.parsed_workload()))

    assert of() == of("worst_group_drop <= 1") == of("kv_gib <= 0.1", "quality >= 0.5")


def test_limits_on_costs_are_limits_of_trials_and_figures_are_not() -> None:
    spec = SearchSpec(
        model="m",
        max_memory_gib=20,
        constraints=("kv_gib <= 0.5", "memory_gib <= 16", "visual_tokens >= 64", "quality >= 0.9"),
    )
    costs = {"memory_gib": 18.0, "kv_bytes": 2.0**30, "visual_tokens": 100.0}
    found = violations(spec.all_constraints(), costs)
    assert found == {"memory_gib": 2.0, "kv_gib": 0.5, "visual_tokens_min": -36.0}
    assert broken(spec.all_constraints(), costs) == ["kv_gib 1", "memory_gib 18"]


def test_the_default_stands_until_its_own_figure_is_named() -> None:
    quality = parse_constraint("quality >= 0.9")
    assert recommending([quality]) == (quality, DEFAULT)
    relaxed = parse_constraint("worst_group_drop <= 1")
    assert recommending([quality, relaxed, parse_constraint("kv_gib <= 1")]) == (quality, relaxed)


FRONT = [
    member(1, 1.0, 0.80, 0.20),
    member(2, 2.0, 0.85, 0.04),
    member(3, 3.0, 0.90, 0.05),
    member(4, 4.0, 0.95, 0.08),
]


def test_only_members_that_meet_the_constraints_are_recommended() -> None:
    found = recommend(FRONT, "selection", "quality")
    assert found.recommended and found.member.trial == 3 and found.meeting == (2, 3)
    assert found.text == (
        "Recommended (--best quality): trial 3; 2 of 4 members of the front meet worst_group_drop <= 0.05 (no question "
        "group loses more than 5 points) on selection."
    )
    assert (
        recommend(FRONT, "selection", "quality", [parse_constraint("worst_group_drop <= 1")]).member.trial
        == 4
    )
    both = [parse_constraint("quality <= 0.86")]
    assert recommend(FRONT, "selection", "quality", both).member.trial == 2


def test_where_nothing_meets_the_default_the_nearest_is_named_with_its_miss() -> None:
    rows = [member(1, 1.0, 0.8, 0.20), member(2, 2.0, 0.9, 0.08), member(3, 3.0, 0.95, 0.09)]
    found = recommend(rows, "selection", "quality")
    assert not found.recommended and found.member.trial == 2
    assert found.text == (
        "Nothing is recommended: no member of the front meets worst_group_drop <= 0.05 (no question group loses more "
        "than 5 points) on selection. The nearest is trial 2: worst_group_drop 8.0 ± 2.0 % misses by 3.0 points."
    )
    assert found.as_dict()["misses"][0]["excess"] == pytest.approx(0.03)
    insist(found, [])  # nobody asked for it
    with pytest.raises(AutotcError, match=r"misses by 3.0 points.*--trial 2") as error:
        insist(found, [DEFAULT])
    assert error.value.exit_code == 1


def test_the_users_own_constraints_come_before_the_default_one() -> None:
    rows = [member(1, 1.0, 0.80, 0.06), member(2, 2.0, 0.92, 0.30)]
    asked = [parse_constraint("quality >= 0.9")]
    found = recommend(rows, "selection", "quality", asked)
    assert found.member.trial == 2 and [m.constraint for m in found.misses] == [DEFAULT]
    insist(found, asked)


def test_a_figure_that_nobody_has_is_said_and_not_invented() -> None:
    rows = [member(1, 1.0, 0.8), member(2, 2.0, 0.9)]
    found = recommend(rows, "selection", "quality")
    assert found.recommended and found.unchecked == (DEFAULT,)
    assert (
        "No member has worst_group_drop on selection, so worst_group_drop <= 0.05 was not applied"
        in found.text
    )
    asked = recommend(rows, "selection", "quality", [DEFAULT])
    assert not asked.recommended and "worst_group_drop was not measured" in asked.text
    assert asked.as_dict()["misses"][0]["excess"] is None


def test_the_rules_choose_among_those_that_meet_the_constraints() -> None:
    rows = [
        member(i, c, q, 0.01) for i, c, q in ((1, 1.0, 0.50), (2, 2.0, 0.90), (3, 3.0, 0.94), (4, 9.0, 0.95))
    ]
    rows.append(member(5, 10.0, 0.99, 0.5))
    found = {
        best: recommend(rows, "selection", best).member.trial for best in ("quality", "knee", "cheapest")
    }
    assert found == {"quality": 4, "knee": 2, "cheapest": 3}
    assert recommend(rows, "selection").member.trial == found["quality"]
    with pytest.raises(SpecError, match="--best: 'worst' is not quality, knee or cheapest"):
        recommend(rows, "selection", "worst")


def test_a_member_chosen_by_hand_is_held_against_the_same_constraints() -> None:
    bad = recommend(FRONT, "selection", named=FRONT[3])
    assert (bad.member.trial, bad.best, bad.recommended, bad.meeting) == (4, None, False, (2, 3))
    assert bad.text == (
        "Not recommended: trial 4 does not meet worst_group_drop <= 0.05 (no question group loses more than 5 points) "
        "on selection: worst_group_drop 8.0 ± 2.0 % misses by 3.0 points."
    )
    good = recommend(FRONT, "selection", named=FRONT[1])
    assert good.recommended and good.text.startswith("Chosen by hand: trial 2, which meets worst_group_drop")
    assert recommend([], "selection", named=FRONT[1]).unchecked == ()


def test_figures_of_another_split_do_not_count() -> None:
    rows = [member(1, 1.0, 0.8, 0.01, split="held-out"), member(2, 2.0, 0.9, 0.01)]
    rows[0] = Member(1, None, rows[0].policy, (*rows[0].numbers, *member(1, 1.0, 0.99).numbers[:1]))
    assert recommend(rows, "selection", "quality").meeting == (2,)


def test_the_front_shows_all_but_those_over_a_limit_on_costs() -> None:
    found, split = front(FRONT, constraints=[DEFAULT, parse_constraint("kv_gib <= 3")])
    assert (split, [m.trial for m in found]) == ("selection", [1, 2, 3])
    assert [m.trial for m in front(FRONT, limit=2.0)[0]] == [1, 2]


def test_an_empty_front_has_no_recommendation() -> None:
    with pytest.raises(SpecError, match="the front is empty"):
        recommend([], "selection", "quality")
