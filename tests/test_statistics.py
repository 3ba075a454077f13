"""Statistics of clustered examples: what they promise, checked against formulas, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from autotc import statistics as s
from autotc.statistics_bench import answers, coverage, images, low_high, page


def test_single_example_clusters_give_the_usual_student_interval() -> None:
    x = np.random.default_rng(0).normal(size=30)
    found = s.interval(x, np.arange(30))
    low, high = stats.ttest_1samp(x, 0).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert s.p_value(found) == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    assert found.n == found.clusters == 30 and found.level == 0.95


def test_missing_values_and_single_clusters_have_no_interval() -> None:
    x = np.array([1.0, np.nan, 0.0, 1.0])
    assert s.mean(x, np.arange(4))[2] == 3
    for found in (s.interval(x, np.zeros(4)), s.share(x, np.zeros(4)), s.paired(x, 0 * x, np.zeros(4))):
        assert found.value == pytest.approx(2 / 3) and found.clusters == 1
        assert found.stderr is found.low is found.high is None and s.p_value(found) is None
    assert s.bootstrap(x, np.zeros(4)).low is None
    assert np.isnan(s.interval(np.full(2, np.nan), np.arange(2)).value)


def test_share_of_independent_answers_is_wilson_and_stays_within_bounds() -> None:
    x = (np.arange(400) < 380).astype(float)
    found = s.share(x, np.arange(400))
    low, high = stats.binomtest(380, 400).proportion_ci(method="wilson")
    assert found.low == pytest.approx(low, abs=2e-3) and found.high == pytest.approx(high, abs=2e-3)
    right = s.share(np.ones(60), np.arange(60) // 2)
    assert right.high == 1 and right.low is not None and 0.85 < right.low < 0.9


def test_paired_is_wider_than_student_by_two_examples_and_never_empty() -> None:
    rng = np.random.default_rng(1)
    one, other, image = rng.random(200) < 0.8, rng.random(200) < 0.7, np.arange(200) // 2
    found, plain = s.paired(one, other, image), s.interval(one * 1.0 - other, image)
    assert found.value == plain.value and found.stderr == plain.stderr
    assert found.high - found.low > plain.high - plain.low  # type: ignore[operator]
    same = s.paired(one, one, image)
    assert same.low == pytest.approx(-same.high) and same.high > 0.01  # type: ignore[operator]
    assert s.p_value(same) == 1


def test_coverage_of_intervals_by_simulation() -> None:
    rows = [r for r in coverage(300, seed=0, examples=(256,)) if r.quality in (0.7, 0.9) and r.shared < 0.6]
    assert len(rows) == 12
    # 300 runs: a standard error of 1.3 points; the bars are 93 and 97 %
    assert all(low_high(r) for r in rows), [r for r in rows if not low_high(r)]
    assert 0.93 <= np.mean([r.coverage for r in rows]) <= 0.97


def test_bootstrap_of_a_mean_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(2)
    image = images(rng, 400)
    (x,) = answers(rng, image, [0.8], 0.4)
    one, other = s.bootstrap(x, image), s.interval(x, image)
    assert one.stderr == pytest.approx(other.stderr, rel=0.08)
    assert one.low == pytest.approx(other.low, abs=0.01) and one.high == pytest.approx(other.high, abs=0.01)
    slow = s.bootstrap(x, image, statistic=lambda v: float(v.mean()))
    assert slow == s.bootstrap_of({"x": x}, image, lambda c: c["x"].mean())
    assert (slow.low, slow.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_bootstrap_of_columns_covers_a_correlation() -> None:
    rng, hits = np.random.default_rng(3), 0
    for seed in range(100):
        common = rng.normal(size=60)
        columns = {"a": common + rng.normal(size=60), "b": common + rng.normal(size=60)}
        found = s.bootstrap_of(
            columns, np.arange(60), lambda c: np.corrcoef(c["a"], c["b"])[0, 1], resamples=300, seed=seed
        )
        hits += found.low <= 0.5 <= found.high  # type: ignore[operator]
    assert 88 <= hits <= 99


def test_mcnemar_is_binomial_for_single_examples_and_swaps_whole_clusters() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.random(100) < 0.8, rng.random(100) < 0.65
    right, wrong = int((one & ~other).sum()), int((~one & other).sum())
    assert s.mcnemar(one, other) == pytest.approx(stats.binomtest(right, right + wrong).pvalue)
    assert s.mcnemar(one, one) == 1
    # 4 images with 5 flips each, all one way: 2 of 2^4 sign patterns are as far
    assert s.mcnemar(np.ones(20), np.zeros(20), np.arange(20) // 5) == pytest.approx(2 / 16)
    # flips within an image cancel
    assert s.mcnemar([1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 2]) == pytest.approx(0.5)


def test_clustered_mcnemar_keeps_its_level_where_the_plain_one_does_not() -> None:
    rng, plain, clustered = np.random.default_rng(5), 0, 0
    for _ in range(300):
        image = np.arange(240) // 8
        sides = (rng.random((2, 30)) < 0.7)[:, image] ^ (rng.random((2, 240)) < 0.05)
        plain += s.mcnemar(*sides) < 0.05
        clustered += s.mcnemar(*sides, image) < 0.05
    assert clustered / 300 < 0.09 < 0.2 < plain / 300


def test_holm() -> None:
    np.testing.assert_allclose(s.holm([0.01, 0.04, 0.03, 0.6]), [0.04, 0.09, 0.09, 0.6])
    np.testing.assert_allclose(s.holm([0.5, 0.9]), [1, 1])
    assert len(s.holm([])) == 0


def test_simultaneous_intervals_hold_together() -> None:
    rng, together = np.random.default_rng(6), 0
    for _ in range(400):
        found = [s.interval(rng.normal(size=30), np.arange(30)) for _ in range(5)]
        wide = s.simultaneous(found)
        together += all(x.low <= 0 <= x.high for x in wide)  # type: ignore[operator]
        assert wide[0].level == pytest.approx(0.99)
        # Holm finds at least what the joint intervals find
        adjusted = s.holm([s.p_value(x) or 0.0 for x in found])
        assert all(p < 0.05 for p, x in zip(adjusted, wide, strict=True) if x.low > 0 or x.high < 0)  # type: ignore[operator]
    assert 0.92 <= together / 400 <= 0.98


def test_the_detectable_difference_is_detected_with_its_power() -> None:
    rng, seen = np.random.default_rng(7), 0
    least = s.detectable(1.0, 50, claims=3, power=0.8)
    assert least > s.detectable(1.0, 50) > s.detectable(1.0, 200)
    for _ in range(500):
        found = s.interval(rng.normal(least, 1.0, 50), np.arange(50))
        seen += (s.p_value(found) or 0.0) < 0.05 / 3
    assert 0.74 <= seen / 500 <= 0.86


def test_confidence_sequence_holds_at_every_n_and_narrows() -> None:
    rng, missed = np.random.default_rng(8), 0
    for _ in range(60):
        x = (rng.random(200) < 0.6) * 1.0 - (rng.random(200) < 0.5)
        low, high = s.confidence_sequence(x, alpha=0.1, steps=100)
        missed += bool(((low > 0.1) | (high < 0.1)).any())
        assert (np.diff(low) >= 0).all() and (np.diff(high) <= 0).all()
    assert missed / 60 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 60)
    low, high = s.confidence_sequence(np.full(400, 0.5))
    assert 0.3 < low[-1] < 0.5 < high[-1] < 0.7


def test_e_value_without_and_with_a_population() -> None:
    assert s.e_value(np.array([])) == 1
    x = np.array([1.0, 1, 0, -1, 1])
    expected = np.mean([np.prod(1 + bet * x) for bet in s.BETS])
    assert s.e_value(x) == pytest.approx(expected)
    # the rest would have to make up for what was won: the evidence is larger, and certain in the end
    assert s.e_value(x, population=20) > s.e_value(x)
    assert s.e_value(np.ones(11), population=20) == np.inf
    assert s.e_value(np.ones(10), population=21) < np.inf
    assert s.e_value(np.array([-1.0]), population=1) < 1 < s.e_value(np.array([1.0]), population=1)


def test_the_population_e_value_has_a_mean_of_at_most_one() -> None:
    rng = np.random.default_rng(9)
    size = rng.integers(1, 4, 40)
    sums = np.array([rng.integers(-n, n + 1) for n in size])
    sums[0] -= sums.sum() if abs(sums.sum()) <= 1 else 0
    size[0] = max(size[0], abs(sums[0]))
    total, at = sums.sum(), 1
    while total > 0:  # the whole has a mean of at most zero
        sums[at], total, at = -size[at], total - sums[at] - size[at], at + 1
    found = []
    for _ in range(2000):
        order = rng.permutation(40)[:15]
        found.append(s.e_value(sums[order], size[order], int(size.sum())))
    assert np.mean(found) <= 1 + 3 * np.std(found) / np.sqrt(2000)


def test_the_page_names_what_is_out_of_bounds() -> None:
    row = {
        "what": "share",
        "n": 128,
        "images": 26.0,
        "quality": 0.98,
        "shared": 0.0,
        "stderr": 0.005,
        "width": 0.1,
    }
    rows = [{**row, "coverage": 0.9}, {**row, "shared": 0.1, "coverage": 0.95}]
    race = {
        "trials": 60,
        "questions": "2",
        "scatter": 0.1,
        "members": 99,
        "lost": 1,
        "stopped": 0.1,
        "saved": 0.05,
    }
    text = page(
        {
            "runs": 1000, "studies": 9, "racing": [{**race, "examples": 256}], "coverage": rows,
            "false_elimination": {"members": 99, "lost": 1, "share": 1 / 99, "bar": 0.02},
            "coverage_within": {"rows": 2, "within": 1, "low": 0.93, "high": 0.97},
        }
    )  # fmt: skip
    assert "**90.0** | 95.0 |" in text and "loses 1 (1.01 %; the bar is 2 %)" in text
