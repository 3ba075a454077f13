"""What an average hides, on cases small enough to work out by hand, and properties that always hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotc._outcomes import Outcomes, mean, numbers
from autotc.breakdown import (
    breakdown,
    by_answer_length,
    by_group,
    fidelity_correlation,
    flips,
    hard_split,
    next_question,
    worst_group_drop,
)
from autotc.mixes import mix_shift
from autotc.policy import Number
from tests.test_outcomes import made

TWO_GROUPS = np.array(["count"] * 8 + ["read"] * 8)


def scores(*rows: str) -> np.ndarray:
    """'1101' as right, right, wrong, right."""
    return np.array([float(c) for c in "".join(rows)])


def test_groups_are_sorted_by_what_they_lose() -> None:
    found = by_group(
        made(
            16, group=TWO_GROUPS, full=scores("11111111", "11111100"), correct=scores("11111110", "11000011")
        )
    )
    assert [(g.group, g.n, g.quality, g.uncompressed) for g in found] == [
        ("read", 8, 0.5, 0.75),
        ("count", 8, 0.875, 1.0),
    ]
    # read: +1 four times, -1 twice; residuals 0.75 four times, -1.25 twice, -0.25 twice
    squares = 4 * 0.75**2 + 2 * 1.25**2 + 2 * 0.25**2
    assert found[0].drop.value == 0.25
    assert found[0].drop.stderr == pytest.approx(np.sqrt(squares * 8 / 7) / 8)
    assert (found[0].flips.right_to_wrong, found[0].flips.wrong_to_right) == (4, 2)
    assert found[0].flips.p == pytest.approx(2 * (1 + 6 + 15) / 64)  # two or fewer heads of six, twice


def test_groups_against_other_outcomes_join_by_example() -> None:
    one = made(4, correct=scores("1100"), full=scores("1111"))
    other = made(4, correct=scores("0111")).take(np.array([3, 2, 1, 0]))
    (found,) = by_group(one, other.take(slice(0, 3)))  # the first example is not in both
    assert (found.n, found.quality, found.uncompressed, found.drop.value) == (
        3,
        pytest.approx(1 / 3),
        1.0,
        pytest.approx(2 / 3),
    )


def test_worst_group_drop_is_paired_named_and_ignores_tiny_groups() -> None:
    group = np.array(["count"] * 8 + ["read"] * 8 + ["tiny"] * 7)
    outcomes = made(
        23,
        group=group,
        full=scores("11111111", "11110000", "1111111"),
        correct=scores("11111100", "11000000", "0000000"),
    )
    name, drop, stderr, n = worst_group_drop(outcomes) or ("", 0.0, None, 0)
    assert (name, drop, n) == (
        "count",
        0.25,
        8,
    )  # read loses as much, the first name wins; tiny has seven examples
    assert stderr == pytest.approx(np.sqrt((6 * 0.25**2 + 2 * 0.75**2) * 8 / 7) / 8)
    assert worst_group_drop(outcomes.take(slice(16, 23))) is None
    (number,) = (x for x in numbers(outcomes) if x.name == "worst_group_drop")
    assert (number.value, number.stderr, number.n, number.unit) == (drop, stderr, 8, "accuracy")


def test_the_worst_of_several_noisy_groups_is_biased_upwards_as_its_text_says() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(200) % 10
    found = []
    for _ in range(100):
        correct = (rng.random(200) < 0.9).astype(float)
        found.append((worst_group_drop(made(200, group=group.astype(str), correct=correct)) or ("", 0.0))[1])
    assert np.mean(found) > 0.15  # every group loses 0.1
    assert "above the largest true drop on\n    average" in (worst_group_drop.__doc__ or "")


def test_flips_count_both_ways() -> None:
    found = flips(made(8, full=scores("11110000"), correct=scores("00011000")))
    assert (found.right_to_wrong, found.wrong_to_right, found.n) == (3, 1, 8)
    assert found.p == pytest.approx(2 * (1 + 4) / 16)
    partly = made(2, full=np.array([1.0, 1.0]), correct=np.array([0.75, 1.0]))
    assert flips(partly).right_to_wrong == 1, "an answer that is right in part is not right"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_flips_explain_the_whole_difference_and_none_against_itself(pairs: list[tuple[bool, bool]]) -> None:
    full, correct = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    outcomes = made(len(pairs), full=full, correct=correct)
    found, itself = flips(outcomes), flips(outcomes, outcomes)
    assert found.wrong_to_right - found.right_to_wrong == round(float((correct - full).sum()))
    assert (itself.right_to_wrong, itself.wrong_to_right, itself.p) == (0, 0, 1.0)
    back = flips(made(len(pairs), full=correct, correct=full))
    assert (back.right_to_wrong, back.wrong_to_right) == (found.wrong_to_right, found.right_to_wrong)


def test_hard_examples_are_those_that_downsampling_gets_wrong() -> None:
    outcomes, small = made(8, correct=scores("11101100")), made(8, correct=scores("11110000"))
    found = hard_split(outcomes, small)
    assert found.easy is not None and found.hard is not None
    assert (found.easy.value, found.easy.n) == (0.75, 4)
    assert (found.hard.value, found.hard.n) == (0.5, 4)
    assert found.policy_gain.value == pytest.approx(1 / 8)
    itself = hard_split(small, small)
    assert itself.easy is not None and itself.hard is not None
    assert (itself.easy.value, itself.hard.value) == (1.0, 0.0), "by construction: it cannot be ranked here"
    assert hard_split(outcomes, made(8, correct=np.ones(8))).hard is None


def test_the_next_question_is_compared_with_its_own_cache_and_with_the_uncompressed_model() -> None:
    nan = float("nan")
    policy = made(6, 2, correct=scores("111101"), next_correct=np.array([1, 0, 1, 0, nan, nan]))
    whole = made(6, 2, correct=np.ones(6), next_correct=np.array([1, 1, 1, 1, nan, nan]))
    found = next_question(policy, whole)
    assert found is not None and found.less_uncompressed is not None
    assert (found.quality.value, found.quality.n) == (0.5, 4)
    assert found.less_own.value == -0.5 and found.less_uncompressed.value == -0.5
    assert found.quality.stderr == 0.0  # each of the two images has one of each
    assert next_question(policy).less_uncompressed is None  # type: ignore[union-attr]
    assert next_question(policy.take(slice(4, 6))) is None


def test_answers_are_divided_by_the_words_of_the_uncompressed_answer() -> None:
    mine = made(4, correct=scores("1100"), answer=np.array(["red", "7 1", "blue", "two words"]))
    whole = made(4, correct=scores("1110"), answer=np.array(["red", "7 1", "7 2 3", "one"]))
    assert {(g.group, g.n, g.quality, g.drop.value) for g in by_answer_length(mine, whole)} == {
        ("one word", 2, 0.5, 0.0),
        ("several words", 2, 0.5, 0.5),
    }
    assert {(g.group, g.n) for g in by_answer_length(mine)} == {("one word", 2), ("several words", 2)}
    assert by_answer_length(made(3, answer=np.array(["a", "b", "c"]))) == []


# --- mixes ---

# reader is better at reading, counter at counting, both equally good on the whole
READER = made(16, group=TWO_GROUPS, correct=scores("11110000", "11111111"))
COUNTER = made(16, group=TWO_GROUPS, correct=scores("11111111", "11110000"))
MEMBERS = {"reader": READER, "counter": COUNTER}


def test_regret_of_a_changed_mix_by_hand() -> None:
    found = mix_shift(MEMBERS)
    assert found.chosen == "reader" and not found.fresh  # equal on the data's own mix, the first one is taken
    tilted = {s.mix: s for s in found.shifts if s.kind == "tilted"}
    # four counting questions to one that reads: 4/5 * 1 + 1/5 * 0.5 against 4/5 * 0.5 + 1/5 * 1
    assert (tilted["count x 4"].chosen, tilted["count x 4"].best) == ("reader", "counter")
    assert tilted["count x 4"].regret.value == pytest.approx(0.9 - 0.6)
    assert tilted["read x 4"].regret.value == 0.0
    halves = [s for s in found.shifts if s.kind == "halves"]
    assert [(s.mix, s.chosen, s.best, s.regret.value) for s in halves] == [
        ("read", "counter", "reader", 0.5),
        ("count", "reader", "counter", 0.5),
    ]
    assert found.tilted is not None and found.tilted.value == pytest.approx(0.15)
    assert found.halves is not None and found.halves.value == 0.5
    assert found.worst is not None and found.worst.regret.value == 0.5


def test_regret_error_is_that_of_the_stratified_difference() -> None:
    rng = np.random.default_rng(5)
    values, errors = [], []
    for _ in range(400):
        right = {
            "a": np.concatenate([rng.random(40) < 0.5, rng.random(40) < 0.9]).astype(float),
            "b": np.concatenate([rng.random(40) < 0.8, rng.random(40) < 0.6]).astype(float),
        }
        group = np.repeat(["count", "read"], 40)
        decide = {"a": made(80, group=group, correct=np.repeat([0.0, 1.0], 40))}
        decide["b"] = made(80, group=group, correct=np.repeat([0.9, 0.0], 40))
        found = mix_shift(decide, {k: made(80, group=group, correct=v) for k, v in right.items()})
        shift = next(s for s in found.shifts if s.mix == "count x 4")
        assert found.fresh and (shift.chosen, shift.best) == ("a", "b")
        values.append(shift.regret.value)
        errors.append(shift.regret.stderr)
    assert np.mean(values) == pytest.approx(0.8 * 0.3 - 0.2 * 0.3, abs=0.02)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_no_regret_is_negative_where_choice_and_score_share_the_examples(
    seed: int, members: int, groups: int
) -> None:
    rng = np.random.default_rng(seed)
    group = (np.arange(60) % groups).astype(str)
    rivals = {
        f"m{i}": made(60, 2, group=group, correct=(rng.random(60) < 0.7).astype(float))
        for i in range(members)
    }
    found = mix_shift(rivals)
    assert all(s.regret.value >= -1e-12 for s in found.shifts)
    assert all(s.regret.value == 0 for s in found.shifts if s.chosen == s.best)
    best = max(rivals.values(), key=lambda o: o.correct.sum()).correct.sum()
    assert rivals[found.chosen].correct.sum() == best
    assert sum(s.kind == "tilted" for s in found.shifts) == (groups if groups > 1 else 0)
    ways = len(list(combinations(range(groups), groups // 2))) if groups > 1 else 0
    assert sum(s.kind == "halves" for s in found.shifts) == min(ways, 32)


def test_members_are_compared_on_the_examples_that_all_have() -> None:
    short = {"reader": READER, "counter": COUNTER.take(np.arange(15, 3, -1))}
    found = mix_shift(short)  # without the first four counting questions, which both get right
    tilted = {s.mix: s.regret.value for s in found.shifts}
    assert found.chosen == "reader"
    # 16 counting weights to 8: counter 2/3 + 1/3 * 0.5, reader 0 + 1/3
    assert tilted["count x 4"] == pytest.approx((2 / 3 + 1 / 6) - 1 / 3)
    with pytest.raises(ValueError, match="every member needs its outcomes"):
        mix_shift(MEMBERS, {"reader": READER})


# --- fidelity ---


@dataclass
class Row:
    numbers: list[Number]


def row(quality: float, n: int = 64, split: str = "search", **figures: float) -> Row:
    given = {"quality": quality, **figures}
    return Row(
        [
            Number(name=k, value=v, unit="u", kind="measured", on="m", split=split, n=n)
            for k, v in given.items()
        ]
    )


def test_fidelity_is_the_rank_correlation_over_policies() -> None:
    rows = [
        row(q, agreement=a, kl=k)
        for q, a, k in ((0.5, 0.1, 2.0), (0.6, 0.3, 1.0), (0.7, 0.2, 0.5), (0.8, 0.9, 0.1))
    ]
    rows.append(row(0.0, n=32, agreement=1.0, kl=0.0))  # stopped early
    rows.append(row(0.0, split="held-out", agreement=1.0))
    agreement, kl = fidelity_correlation(rows)
    assert (agreement.name, agreement.rho.n) == ("agreement", 4)
    assert agreement.rho.value == pytest.approx(1 - 6 * 2 / (4 * 15))  # two neighbours swapped
    assert kl.name == "kl" and kl.rho.value == pytest.approx(-1)
    assert agreement.rho.low is not None and agreement.rho.low <= agreement.rho.value
    assert fidelity_correlation(rows[:2]) == [] and fidelity_correlation([]) == []
    assert fidelity_correlation([row(0.5, agreement=a) for a in (0.1, 0.2, 0.3)]) == []


def test_everything_at_once_is_plain_json() -> None:
    rng = np.random.default_rng(1)

    def some(**columns: Any) -> Outcomes:
        return made(16, 2, group=TWO_GROUPS, next_correct=scores("1010" * 4), **columns)

    answer = np.array(["a", "b c"] * 8)
    policy = some(correct=(rng.random(16) < 0.6).astype(float), answer=answer)
    found = breakdown(policy, some(correct=np.ones(16), answer=answer))
    document = json.loads(json.dumps(found.as_dict()))
    assert document["worst"]["drop"] == max(g["drop"]["value"] for g in document["groups"])
    assert document["flips"]["n"] == 16 and len(document["answer_length"]) == 2
    assert document["next_question"]["less_uncompressed"]["value"] == 0.0
    assert document["groups"][0]["drop"]["n"] == 8
    assert mean(policy.correct, policy.image)[0] == pytest.approx(
        sum(g["quality"] * g["n"] for g in document["groups"]) / 16
    )
