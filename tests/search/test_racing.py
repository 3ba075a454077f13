"""Racing stops what is clearly dominated, and little else."""

from __future__ import annotations

import numpy as np
import pytest

from autotc._outcomes import Outcomes
from autotc.search._racing import ALPHA, dominated, evidence, gap, rungs


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


def test_equals_are_rarely_stopped_at_any_rung() -> None:
    rng, stopped, runs = np.random.default_rng(0), 0, 300
    for _ in range(runs):
        one, other = outcomes(rng.random(256) < 0.8), outcomes(rng.random(256) < 0.8)
        stopped += any(dominated(one.take(slice(0, n)), other) for n in (64, 128, 256))
    # binomial: 300 runs at the nominal level, three standard errors above it
    assert stopped / runs <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / runs)


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


def test_examples_of_one_image_count_once() -> None:
    single = evidence(outcomes(np.zeros(8)), outcomes(np.ones(8)))
    shared = evidence(outcomes(np.zeros(64), per_image=8), outcomes(np.ones(64), per_image=8))
    assert shared == pytest.approx(single)
