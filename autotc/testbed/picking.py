"""Rules to pick a policy by, compared on searches that have been simulated: the winner's curse, against trials.

What looks best on the examples it is picked by is partly lucky there, and the more so the more there is to pick from.
After so many trials of a search, each rule picks among what was evaluated by then and the published recipes; its
regret is counted on held-out examples. Its optimism is the quality it picked by less that on held-out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotc.pareto import non_dominated
from autotc.testbed.bed import Bed
from autotc.testbed.simulate import Course

TRIALS = (0, 10, 20, 40, 80, 160, 320, 640)
MOST = 12  # policies that a live study measures on selection (`autotc.search._report`)


@dataclass(frozen=True)
class Evidence:
    """What is known of the policies to pick from.

    Args:
        cost: (P,) exact.
        search, selection: (P, n) right or not, on the examples of the search, and on others.
        search_image, selection_image: (n,) the image of each.
    """

    cost: np.ndarray
    search: np.ndarray
    selection: np.ndarray
    search_image: np.ndarray
    selection_image: np.ndarray

    @property
    def both(self) -> np.ndarray:
        """(P, n) on all of these examples."""
        return np.concatenate([self.search, self.selection], axis=1)

    @property
    def image(self) -> np.ndarray:
        """(n,) of `both`."""
        return np.concatenate([self.search_image, self.selection_image])


# Return a quality by which to pick, (P,), -inf for what is not looked at; the highest within a cost is picked.
Rule = Callable[[Evidence], np.ndarray]


def searched(seen: Evidence) -> np.ndarray:
    """Quality on the examples of the search alone."""
    return np.asarray(seen.search.mean(1))


def looked_at_again(seen: Evidence) -> np.ndarray:
    """Quality on other examples, of the front of the search and what lies behind it."""
    return _of_candidates(seen, seen.selection.mean(1))


def pooled(seen: Evidence) -> np.ndarray:
    """Quality on all examples, of the same candidates: as live studies choose (`autotc.picking`)."""
    return _of_candidates(seen, seen.both.mean(1))


def shrunk(seen: Evidence) -> np.ndarray:
    """Quality on all examples, drawn to what policies of its cost have on average (empirical Bayes), of the same.

    The average is a line over the logarithm of the cost. How far it is drawn is the share that sampling of examples
    has in the spread around the line.
    """
    quality, line = seen.both.mean(1), np.column_stack([np.ones(len(seen.cost)), np.log(seen.cost)])
    expected = line @ np.linalg.lstsq(line, quality, rcond=None)[0]
    around = seen.both - seen.both.mean(0)  # what is hard for all of them does not tell them apart
    sampling = float(np.mean(_errors(around, seen.image) ** 2))
    true = max(float((quality - expected).var()) - sampling, 1e-9)
    return _of_candidates(seen, expected + true / (true + sampling) * (quality - expected))


RULES: dict[str, Rule] = {
    "search": searched,
    "selection": looked_at_again,
    "pooled": pooled,
    "shrunk": shrunk,
}
ONE_ERROR = "one-se"  # the cheapest of `pooled` within one standard error of its best


def pick(name: str, seen: Evidence, limit: float) -> tuple[int, float]:
    """Return what a rule picks within a cost, and the quality that it was picked by."""
    score = np.where(seen.cost <= limit, RULES["pooled" if name == ONE_ERROR else name](seen), -np.inf)
    best = int(np.lexsort([seen.cost, -score])[0])
    if name == ONE_ERROR:
        behind = seen.both[best] - seen.both
        near = np.isfinite(score) & (behind.mean(1) <= _errors(behind, seen.image))
        best = int(np.flatnonzero(near)[np.argmin(seen.cost[near])])
    return best, float(score[best])


def compare(bed: Bed, courses: Sequence[Course]) -> dict[str, Any]:
    """Return regret and optimism of each rule against trials, means over budgets, then over courses.

    Args:
        bed: that the courses ran on.
        courses: of one strategy, a seed each.

    Returns:
        Plain data: `trials` (the last is the end of each course), and for each rule `regret`, `regret_stderr`,
        `optimism`, `optimism_stderr` (errors between seeds), `rise` (of the regret at the end over that at the trials
        where it was least, with its standard error, paired by seed) and `less_than_selection` (at the end, likewise).
    """
    ends = [len(c.evaluations) for c in courses]
    trials = [t for t in TRIALS if t < min(ends)]
    best = np.array([_best(bed, courses, limit) for limit in bed.limits.values()])
    names = ("search", "selection", ONE_ERROR, "pooled", "shrunk")
    regret = np.zeros((len(names), len(courses), len(trials) + 1))
    optimism = np.zeros_like(regret)
    for j, (course, end) in enumerate(zip(courses, ends, strict=True)):
        for k, until in enumerate((*trials, end)):
            seen, held = _after(bed, course, until)
            for i, name in enumerate(names):
                picks = [pick(name, seen, limit) for limit in bed.limits.values()]
                there = np.array([held[at] for at, _ in picks])
                regret[i, j, k] = (best - there).mean()
                optimism[i, j, k] = (np.array([by for _, by in picks]) - there).mean()
    own = regret[names.index("selection"), :, -1]
    return {
        "strategy": courses[0].strategy,
        "seeds": len(courses),
        "trials": [*trials, float(np.mean(ends))],
        "rules": [
            {
                "rule": name,
                **_means("regret", regret[i]),
                **_means("optimism", optimism[i]),
                "rise": _rise(regret[i]),
                "less_than_selection": _pair(own - regret[i, :, -1]),
            }
            for i, name in enumerate(names)
        ],
    }


def _after(bed: Bed, course: Course, until: int) -> tuple[Evidence, np.ndarray]:
    """Return what is known after some trials, and the held-out quality, of recipes and what the course evaluated."""
    tried = [t for t in course.tried if t.number < until]
    cost = np.concatenate([bed.costs[bed.presets], [t.cost for t in tried]])
    right = np.concatenate([bed.correct[bed.presets], *(t.correct[None] for t in tried)]).astype(float)
    within = cost <= max(bed.limits.values())
    cost, right = cost[within], right[within]
    search, selection = bed.parts["search"], bed.parts["selection"]
    seen = Evidence(cost, right[:, search], right[:, selection], bed.image[search], bed.image[selection])
    return seen, right[:, bed.parts["held-out"]].mean(1)


def _best(bed: Bed, courses: Sequence[Course], limit: float) -> float:
    """The held-out quality of what is best on the other examples, of all that was measured or tried."""
    tried = [t for c in courses for t in c.tried]
    cost = np.concatenate([bed.costs, [t.cost for t in tried]])
    right = np.concatenate([bed.correct, *(t.correct[None] for t in tried)])
    others = np.concatenate([bed.parts["search"], bed.parts["selection"]])
    at = int(np.argmax(np.where(cost <= limit, right[:, others].mean(1), -1.0)))
    return float(right[at, bed.parts["held-out"]].mean())


def _of_candidates(seen: Evidence, score: np.ndarray) -> np.ndarray:
    """Leave only fronts of the search: the first, and those behind it while they make at most `MOST`."""
    points = np.column_stack([seen.search.mean(1), seen.cost])
    left, found = np.arange(len(points)), np.zeros(0, int)
    while len(left):
        on = non_dominated(points[left], maximise=(True, False))
        if len(found) and len(found) + on.sum() > MOST:
            break
        found, left = np.concatenate([found, left[on]]), left[~on]
    kept = np.full(len(score), -np.inf)
    kept[found] = score[found]
    return kept


def _errors(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Standard errors, clustered by image, of the means of (P, n) rows."""
    index = np.unique(image, return_inverse=True)[1]
    count = int(index.max()) + 1
    residual = values - values.mean(1, keepdims=True)
    sums = residual @ np.eye(count)[index]
    return np.asarray(np.sqrt((sums**2).sum(1) * count / (count - 1)) / values.shape[1])


def _means(name: str, values: np.ndarray) -> dict[str, list[float]]:
    """Means over courses (J, K) with their standard errors."""
    errors = (
        values.std(0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.full(values.shape[1], np.nan)
    )
    return {name: values.mean(0).tolist(), f"{name}_stderr": [_finite(e) for e in errors]}


def _rise(regret: np.ndarray) -> dict[str, Any]:
    """The regret at the end less that where its mean was least."""
    least = int(np.argmin(regret.mean(0)))
    return {**_pair(regret[:, -1] - regret[:, least]), "least_at": least}


def _pair(differences: np.ndarray) -> dict[str, Any]:
    error = differences.std(ddof=1) / np.sqrt(len(differences)) if len(differences) > 1 else float("nan")
    return {"value": float(differences.mean()), "stderr": _finite(error)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
