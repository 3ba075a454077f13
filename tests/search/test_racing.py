"""Racing stops what is clearly dominated, and little else."""

from __future__ import annotations

import numpy as np
import pytest

from autotc._outcomes import Outcomes
from autotc.search._racing import ALPHA, dominated, evidence, gap, rungs
from autotc.search.simulation import race


def outcomes(correct: np.ndarray, per_image: int = 1, first: int = 0) -> Outcomes:
    n = len(correct)
    ids = np.array([f"e{first + i}" for i in range(n)])
    images = np.array([f"i{(first + i) // per_image}" for i in range(n)])
    empty = np.full(n, np.nan)
    return Outcomes(
        "search", "fake", "accuracy", ids, images, np.array(["all"] * n), correct.astype(float),
        empty, empty, empty, empty, empty, np.array([""] * n),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("examples", "expected"),
    [(256, [64, 128, 256]), (200, [100, 200]), (512, [64, 128, 256, 512]), (100, [100]), (128, [64, 128])],
)
def test_rungs(examples: int, expected: list[int]) -> None:
    assert rungs(examples, racing=True) == expected
    assert rungs(examples, racing=False) == [examples]


def test_who_ends_no_worse_is_rarely_stopped_at_any_rung() -> None:
    rng, stopped, runs = np.random.default_rng(0), 0, 0
    while runs < 200:
        one, other = outcomes(rng.random(256) < 0.8, 2), outcomes(rng.random(256) < 0.8, 2)
        if one.correct.mean() >= other.correct.mean():
            runs += 1
            stopped += any(dominated(one.take(slice(0, n)), other) for n in range(32, 256, 32))
    # binomial: 200 runs at the level, three standard errors above it
    assert stopped / runs <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_what_cannot_catch_up_is_stopped_for_certain() -> None:
    good, poor = np.zeros(256), np.zeros(256)
    good[:61] = 1
    assert evidence(outcomes(poor[:196]), outcomes(good)) == np.inf  # 61 behind with 60 to go
    assert evidence(outcomes(poor[:194]), outcomes(good)) < np.inf


def test_questions_of_an_image_that_come_later_are_bets_of_their_own_order() -> None:
    rng = np.random.default_rng(5)
    good, poor = outcomes(rng.random(256) < 0.9, 2), outcomes(rng.random(256) < 0.6, 2)
    spread = np.concatenate([np.arange(0, 256, 2), np.arange(1, 256, 2)])  # first questions first
    assert dominated(poor.take(spread[:128]), good.take(spread))


def test_a_clear_loser_is_stopped_at_the_first_rung() -> None:
    rng = np.random.default_rng(1)
    good = outcomes(rng.random(256) < 0.9)
    poor = outcomes(good.correct[:64] * (rng.random(64) < 0.6))
    assert dominated(poor, good)
    assert not dominated(good.take(slice(0, 64)), poor)


def test_the_comparison_is_paired_by_example() -> None:
    good = outcomes(np.ones(100))
    order = np.random.default_rng(2).permutation(100)
    half = outcomes(np.arange(100) % 2).take(order)
    assert gap(half, good) == 0.5
    assert gap(half, outcomes(np.ones(10), first=95)) == pytest.approx(0.4)
    assert evidence(outcomes(np.zeros(4)), outcomes(np.ones(4), first=100)) == 1.0


def test_questions_of_one_image_are_one_bet() -> None:
    whole = outcomes(np.ones(1024), per_image=8)
    shared = evidence(outcomes(np.zeros(16), per_image=8), whole)
    single = evidence(outcomes(np.zeros(16)), outcomes(np.ones(1024)))
    assert 1 < shared < 10 < single


def test_racing_loses_little_of_the_front_and_saves_evaluations() -> None:
    rows = [
        row
        for questions in ((2, 2), (2, 8))
        for row in race(25, trials=60, examples=256, questions=questions, scatter=0.15)
    ]
    members, lost = sum(r.members for r in rows), sum(r.lost for r in rows)
    assert members > 400
    assert lost / members <= 0.02
    assert all(r.stopped > 0 for r in rows) and rows[0].saved > 0.03
