"""Ratios of evaluations on made-up searches whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from autotc.testbed import page, ratios
from autotc.testbed.simulate import Course

ALL = 1000
INF = float("inf")


def course(name: str, seed: int, steps: Mapping[int, float]) -> Course:
    """A search whose area is `steps[n]` once n evaluations are used; the gap lies between 0 and 1."""
    return Course(name, seed, list(steps), list(steps.values()))


def ends(courses: Mapping[str, Sequence[Course]]) -> dict[str, np.ndarray]:
    return {name: np.array([c.areas[-1] for c in of]) for name, of in courses.items()}


def to_target(**reached: Sequence[float]) -> list[dict[str, Any]]:
    """The ratios where the searches of each strategy get to the target after so many evaluations, seed by seed."""
    courses = {name: [course(name, s, {ALL: 0.5}) for s in range(len(of))] for name, of in reached.items()}
    return ratios.to_target(courses, {n: np.array(of) for n, of in reached.items()}, ends(courses), ALL)


def to_end(courses: Mapping[str, Sequence[Course]]) -> dict[str, Any]:
    found = ratios.to_rivals_end(courses, ends(courses), 0.0, 1.0, ALL)
    assert found is not None
    return found


def test_a_ratio_of_means_and_the_quickest_rival_first() -> None:
    quick, slow = to_target(default=[100, 300], slow=[900, 700], quick=[400, 600])
    assert (quick["rival"], slow["rival"]) == ("quick", "slow")
    assert quick["ratio"] == 200 / 500 and (quick["own"], quick["theirs"]) == (200, 500)
    assert slow["ratio"] == 200 / 800 and slow["bound"] is None and slow["own_censored"] == 0


def test_the_two_searches_of_a_seed_are_resampled_together() -> None:
    own = [50.0, 100, 150, 200, 300, 450]
    (paired,) = to_target(default=own, rival=[2 * v for v in own])
    assert (paired["ratio"], paired["low"], paired["high"]) == (0.5, 0.5, 0.5)
    assert (paired["seeds"], paired["level"]) == (6, 0.95)
    (crossed,) = to_target(default=own, rival=[2 * v for v in reversed(own)])
    assert crossed["ratio"] == 0.5 and crossed["low"] < 0.35 and crossed["high"] > 0.7


def test_the_order_of_the_searches_is_not_what_pairs_them() -> None:
    seeds = range(6)
    courses = {
        "default": [course("default", s, {ALL: 0.5}) for s in seeds],
        "rival": [course("rival", s, {ALL: 0.5}) for s in reversed(seeds)],
    }
    own = np.array([50.0, 100, 150, 200, 300, 450])
    (found,) = ratios.to_target(courses, {"default": own, "rival": 2 * own[::-1]}, ends(courses), ALL)
    assert found["low"] == found["high"] == 0.5


def test_seeds_that_only_one_of_the_two_has_do_not_count() -> None:
    (found,) = to_target(default=[100, 200, 990], rival=[400, 800])
    assert found["ratio"] == 150 / 600 and found["seeds"] == 2
    assert to_target(other=[1, 2], rival=[1, 2]) == []


def test_both_means_are_resampled() -> None:
    """The rival alone varies: the interval is that of a constant over a mean, by the delta method."""
    theirs = np.random.default_rng(0).uniform(300, 700, 20)
    (found,) = to_target(default=[100] * 20, rival=theirs.tolist())
    error = 100 / theirs.mean() ** 2 * stats.sem(theirs)
    half = stats.t.ppf(0.975, 19) * error
    # two approximations of one interval: they differ by the skew of 1/x and by 2,000 resamples
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.1)
    assert found["low"] < found["ratio"] < found["high"]


@pytest.mark.parametrize(
    ("own", "theirs", "bound", "ratio", "says"),
    [
        ([100, 200], [400, INF], "at most", 150 / 700, "(1 of 2 of rival)"),
        ([100, INF], [400, 600], "at least", 550 / 500, "(1 of 2 of the default)"),
        ([100, INF], [INF, INF], "either", 550 / 1000, "(1 of 2 of the default and 2 of 2 of rival)"),
    ],
)
def test_searches_that_do_not_get_there_count_as_all_and_are_counted(
    own: list[float], theirs: list[float], bound: str, ratio: float, says: str
) -> None:
    (found,) = to_target(default=own, rival=theirs)
    assert found["ratio"] == pytest.approx(ratio) and found["bound"] == bound
    assert (found["own_censored"], found["theirs_censored"]) == (np.isinf(own).sum(), np.isinf(theirs).sum())
    text = said([found], None)
    assert f"count as all 1,000 {says}" in text
    meaning = {
        "at most": "is at most this",
        "at least": "is at least this",
        "either": "may be larger or smaller",
    }
    assert f"the ratio {meaning[bound]}." in text


def test_nothing_is_said_of_rivals_where_no_search_gets_there() -> None:
    assert to_target(default=[INF, INF], rival=[INF, INF]) == []
    assert said([], None) == ""


def test_of_rivals_that_never_get_there_the_one_with_the_better_end_is_first() -> None:
    courses = {
        name: [course(name, s, {ALL: end}) for s in range(2)]
        for name, end in {"default": 0.95, "worse": 0.2, "better": 0.8}.items()
    }
    reached = {"default": np.array([400.0, 500]), "worse": np.full(2, INF), "better": np.full(2, INF)}
    found = ratios.to_target(courses, reached, ends(courses), ALL)
    assert [r["rival"] for r in found] == ["better", "worse"]


def test_the_default_at_twice_the_speed_needs_half_in_every_resample() -> None:
    """Seeds end at different levels: with level and curve from different seeds the interval would be wide."""
    tops = [0.3, 0.5, 0.8, 0.9]
    steps = range(100, ALL + 1, 100)
    courses = {
        "weak": [course("weak", s, {ALL: 0.1}) for s in range(4)],
        "rival": [course("rival", s, {n: top * n / ALL for n in steps}) for s, top in enumerate(tops)],
        "default": [
            course("default", s, {n // 2: top * n / ALL for n in steps}) for s, top in enumerate(tops)
        ],
    }
    found = to_end(courses)
    assert found["rival"] == "rival" and found["gap_closed"] == pytest.approx(0.625)
    assert (found["own"], found["theirs"], found["reached"]) == (500, ALL, True)
    assert (found["ratio"], found["low"], found["high"]) == (0.5, 0.5, 0.5)


def test_the_mean_curve_is_what_has_to_get_there() -> None:
    """One seed gets to 0.6 at once, the other never does: their mean does when the first is at 1."""
    courses = {
        "rival": [course("rival", s, {800: 0.6}) for s in range(2)],
        "default": [
            course("default", 0, {10: 0.6, 300: 1.0, 900: 1.0}),
            course("default", 1, {200: 0.2, 700: 0.2}),
        ],
    }
    found = to_end(courses)
    assert (found["own"], found["theirs"], found["ratio"]) == (300, 800, 300 / 800)
    # the second seed alone never gets there, which is then all evaluations, the first alone at once
    assert found["low"] == pytest.approx(10 / 800) and found["high"] == pytest.approx(ALL / 800)


def test_what_a_rival_used_is_counted_where_it_had_nothing_more_to_try() -> None:
    courses = {
        "rival": [course("rival", 0, {60: 0.5}), course("rival", 1, {100: 0.5})],
        "default": [course("default", s, {64: 0.4, 128: 0.6}) for s in range(2)],
    }
    found = to_end(courses)
    assert found["theirs"] == 80 and found["ratio"] == 128 / 80


def test_a_default_that_does_not_get_there_is_said_to() -> None:
    courses = {
        "rival": [course("rival", s, {900: 0.8}) for s in range(3)],
        "default": [course("default", s, {900: 0.7}) for s in range(3)],
    }
    found = to_end(courses)
    assert not found["reached"] and found["own"] == ALL and found["ratio"] == ALL / 900
    text = said([], found)
    assert "does not get there with all 1,000 evaluations: at least 1.11 [1.11, 1.11] of the 900" in text


def test_without_a_gap_or_a_rival_there_is_no_ratio() -> None:
    alone = {"default": [course("default", 0, {100: 0.5})]}
    assert ratios.to_rivals_end(alone, ends(alone), 0.0, 1.0, ALL) is None
    both = {**alone, "rival": [course("rival", 0, {100: 0.5})]}
    assert ratios.to_rivals_end(both, ends(both), 0.5, 0.5, ALL) is None


def test_one_seed_has_no_interval() -> None:
    (found,) = to_target(default=[250], rival=[500])
    assert found["ratio"] == 0.5 and found["low"] is None and found["high"] is None
    text = said([found], None, seeds=1)
    assert "needs 0.50 of the evaluations of rival" in text and "Intervals" not in text


def test_what_the_page_and_the_command_say() -> None:
    both = to_target(default=[100, 300], rival=[400, 600], last=[800, INF])
    end = to_end(
        {
            "rival": [course("rival", s, {800: 0.5}) for s in range(2)],
            "default": [course("default", s, {200: 0.6}) for s in range(2)],
        }
    )
    text = said(both, end)
    low, high = both[0]["low"], both[0]["high"]
    assert (
        f"needs 0.40 [{low:.2f}, {high:.2f}] of the evaluations of rival, the quickest rival (means 200 and 500)."
        in text
    )
    assert "last 0.22 [" in text and "] (1 of 2)." in text
    assert (
        "The best rival at the end, rival, closes 0.50 of the gap; the default's mean curve has as much after 200 "
        "evaluations: 0.25 [0.25, 0.25] of the 800 that rival used." in text
    )


def said(found: list[dict[str, Any]], end: dict[str, Any] | None, seeds: int = 2) -> str:
    """What the page says of ratios, in one line."""
    document = {"ratios": found, "ratio_to_rivals_end": end, "evaluations": ALL, "seeds": seeds}
    return " ".join(page._ratios(document))
