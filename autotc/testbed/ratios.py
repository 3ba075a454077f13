"""How many evaluations the default needs for what rivals reach: ratios of means over seeds, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from autotc.statistics import bootstrap_of
from autotc.testbed.score import gap_closed
from autotc.testbed.simulate import Course

OWN = "default"
ROUNDING = 1e-12  # of a mean gap closed

Columns = Mapping[str, np.ndarray]
ByStrategy = Mapping[str, Sequence[Course]]


def to_target(courses: ByStrategy, reached: Columns, ends: Columns, evaluations: int) -> list[dict[str, Any]]:
    """Return mean evaluations to the target of the default over those of each rival, the quickest rival first.

    A search that does not get there counts as all evaluations, the least that it can need: the true ratio is at least
    the one given where such searches are the default's, at most that one where they are the rival's, and either where
    they are of both. Rivals are left out where no search of either side gets there.

    Args:
        courses: of each strategy.
        reached: evaluations to the target of each course, infinite where it does not get there.
        ends: gap closed at the end of each course; among rivals as quick as one another it decides.
        evaluations: that each could use.

    Returns:
        {"rival", "ratio", "low", "high", "level", "seeds", "own", "theirs": mean evaluations, "own_censored",
        "theirs_censored": searches that do not get there, "bound": "at least", "at most", "either" or None} of each.
    """
    found = []
    for rival, mine, theirs in _pairs(courses):
        one, other = reached[OWN][mine], reached[rival][theirs]
        if np.isinf(one).all() and np.isinf(other).all():
            continue
        columns = {"own": np.minimum(one, evaluations), "theirs": np.minimum(other, evaluations)}
        missing = int(np.isinf(one).sum()), int(np.isinf(other).sum())
        found.append(
            {
                "rival": rival,
                **_ratio(columns, lambda c: float(c["own"].mean())),
                "own_censored": missing[0],
                "theirs_censored": missing[1],
                "bound": _bound(*missing),
            }
        )
    return sorted(found, key=lambda r: (r["theirs"], -ends[r["rival"]].mean()))


def to_rivals_end(
    courses: ByStrategy, ends: Columns, floor: float, best: float, evaluations: int
) -> dict[str, Any] | None:
    """Return the evaluations of the default to what the best rival has at its end, over all that this rival used.

    Both are of mean curves over seeds, first passages; the best rival is the one whose mean gap closed ends highest.
    Level, curve and what the rival used are taken anew in each resample of the seeds. A mean curve that does not get
    there counts as all evaluations.

    Args:
        courses: of each strategy.
        ends: gap closed at the end of each course.
        floor, best: areas between which the gap lies.
        evaluations: that each could use.

    Returns:
        {"rival", "gap_closed": at its end, "ratio", "low", "high", "level", "seeds", "own", "theirs": evaluations,
        "reached": whether the default gets there}; None without a rival on the same seeds, or without a gap.
    """
    pairs = {rival: (mine, theirs) for rival, mine, theirs in _pairs(courses)}
    if not pairs or best <= floor:
        return None
    rival = max(pairs, key=lambda name: float(ends[name][pairs[name][1]].mean()))
    mine, theirs = pairs[rival]
    own = [courses[OWN][i] for i in mine]
    grid = np.unique([0, *(used for c in own for used in c.evaluations)])
    curves = np.array([curve(c, floor, best, grid) for c in own])
    columns = {
        "row": np.arange(len(own)),
        "end": ends[rival][theirs],
        "theirs": np.array([max([0, *courses[rival][i].evaluations]) for i in theirs], float),
    }

    def there(c: Columns) -> np.ndarray:
        return curves[c["row"]].mean(0) >= c["end"].mean() - ROUNDING

    def needed(c: Columns) -> float:
        at = there(c)
        return float(grid[at.argmax()] if at.any() else evaluations)

    return {
        "rival": rival,
        "gap_closed": float(columns["end"].mean()),
        **_ratio(columns, needed),
        "reached": bool(there(columns).any()),
    }


def curve(course: Course, floor: float, best: float, grid: np.ndarray) -> np.ndarray:
    """Return the gap closed when so many evaluations are used, (grid,)."""
    values = np.array([gap_closed(area, floor, best) for area in (floor, *course.areas)])
    return values[np.searchsorted(np.array(course.evaluations), grid, side="right")]


def _pairs(courses: ByStrategy) -> list[tuple[str, list[int], list[int]]]:
    """Return each rival, and on the seeds that both have the places of the default's courses and of its own."""
    places = {name: {c.seed: i for i, c in enumerate(of)} for name, of in courses.items()}
    own = places.pop(OWN, {})
    shared = {name: sorted(own.keys() & of.keys()) for name, of in places.items()}
    return [
        (n, [own[s] for s in seeds], [places[n][s] for s in seeds]) for n, seeds in shared.items() if seeds
    ]


def _ratio(columns: Columns, own: Callable[[Columns], float]) -> dict[str, Any]:
    """Return a figure of columns over the mean of their "theirs"; an entry is a seed, which resampling keeps whole."""

    def theirs(c: Columns) -> float:
        return float(c["theirs"].mean())

    seeds = np.arange(len(columns["theirs"]))
    found = bootstrap_of(columns, seeds, lambda c: own(c) / max(1.0, theirs(c)))
    return {
        "ratio": found.value,
        "low": found.low,
        "high": found.high,
        "level": found.level,
        "seeds": found.clusters,
        "own": own(columns),
        "theirs": theirs(columns),
    }


def _bound(own: int, theirs: int) -> str | None:
    """Return what the given ratio says of the true one, by the searches that do not get there."""
    if own and theirs:
        return "either"
    if own:
        return "at least"
    return "at most" if theirs else None
