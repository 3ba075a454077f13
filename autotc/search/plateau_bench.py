"""How often `--until plateau` stops too early, and what stopping costs, by simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotc._outcomes import FLOATS, Outcomes
from autotc.pareto import hypervolume, non_dominated
from autotc.search.plateau import EVERY, Plateau
from autotc.statistics_bench import answers, images

TRIALS, EXAMPLES, STARTS = 200, 256, 12
TOP, SHARED, ALIKE = 0.93, 0.1, 0.6  # as in the simulation of racing
UP = (True, False)
# by how much the best that a search can propose lies below the best there is, t the number of trials so far
CLIMBS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing better than the presets": lambda t: np.zeros(len(t)),
    "10 points by trial 50": lambda t: 0.1 * np.clip(1 - t / 50, 0, 1),
    "10 points, half of what is left every 35 trials": lambda t: 0.1 * 0.5 ** (t / 35),
    "12 points, evenly over 200 trials": lambda t: 0.12 * (1 - t / 200),
}


@dataclass(frozen=True)
class Stops:
    """What the rule did in simulated searches of one kind.

    Args:
        climb: what there was to find.
        searches: simulated, of `TRIALS` trials each.
        stopped: of these, before the last trial.
        median: trial of the stop, searches that went on to the end included.
        false: stopped although as many trials again as the last half would have raised the true area by more than the
            standard error that was quoted.
        missed: mean share of the true area after `TRIALS` trials that is not there at the stop.
        seeming: mean share that the search's own examples would have promised for going on.
    """

    climb: str
    searches: int
    stopped: int
    median: float
    false: int
    missed: float
    seeming: float


def stops(climb: str, seeds: int) -> Stops:
    """Return what the rule does in searches of one kind.

    Costs are spread evenly over two octaves, and the best quality rises with them. Every fifth trial is the best that
    the search can propose at the time, the others lie an exponential distance of 5 points on average below it; the
    first are presets, one point below.

    Args:
        climb: one of `CLIMBS`.
        seeds: searches.
    """
    at, false, missed, seeming = [], 0, [], []
    for seed in range(seeds):
        cost, true, right, image = _search(np.random.default_rng([seed, 7]), CLIMBS[climb])
        seen, plateau, end, found = right.mean(axis=1), Plateau(starts=STARTS, seed=seed), TRIALS, None
        for t in range(1, TRIALS + 1):
            plateau.add(t, _outcomes(right[t - 1], image), (seen[t - 1], cost[t - 1]))
            if t % EVERY == 0 and t < TRIALS and (found := plateau.reached(t)) is not None:
                end = t
                break
        here, whole = (_area(cost, true, seen, n) for n in (end, TRIALS))
        if found is not None:
            later = _area(cost, true, seen, min(TRIALS, end + found.window))
            false += (later - here) / here > found.stderr
        at.append(end)
        missed.append(1 - here / whole)
        seeming.append(1 - _area(cost, seen, seen, end) / _area(cost, seen, seen, TRIALS))
    stopped = sum(end < TRIALS for end in at)
    return Stops(
        climb,
        seeds,
        stopped,
        float(np.median(at)),
        int(false),
        float(np.mean(missed)),
        float(np.mean(seeming)),
    )


def run(seeds: int = 20, each: Callable[[str], None] = lambda line: None) -> list[Stops]:
    """Return what the rule does in searches of every kind.

    Args:
        seeds: searches of each.
        each: told what comes next.
    """
    found = []
    for climb in CLIMBS:
        each(f"{seeds} searches: {climb} ...")
        found.append(stops(climb, seeds))
    return found


def _search(
    rng: np.random.Generator, climb: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return costs, true qualities and answers of the trials, and the image of each example."""
    image, t = images(rng, EXAMPLES, (2, 2)), np.arange(TRIALS)
    place = (t * 0.6180339887498949 + rng.random()) % 1
    best = TOP - 0.35 * (1 - place) ** 2
    below = np.where(rng.random(TRIALS) < 0.2, 0.0, rng.exponential(0.05, TRIALS))
    below[:STARTS] = rng.exponential(0.01, STARTS)
    true = np.clip(best - climb(np.where(t < STARTS, 0, t)) - below, 0.05, 0.99)
    return 0.25 * 4**place, true, answers(rng, image, true, SHARED, ALIKE), image


def _area(cost: np.ndarray, figure: np.ndarray, seen: np.ndarray, n: int) -> float:
    """Return the area under a figure of the front that n trials have on the search's own examples."""
    front = non_dominated(np.column_stack([seen[:n], cost[:n]]), UP)
    return hypervolume(np.column_stack([figure[:n], cost[:n]])[front], (0.0, 1.0 + 1e-9), UP)


def _outcomes(right: np.ndarray, image: np.ndarray) -> Outcomes:
    text = np.full(len(right), "")
    missing: dict[str, Any] = dict.fromkeys(FLOATS, np.full(len(right), np.nan))
    ids, names = np.arange(len(right)).astype(str), image.astype(str)
    columns = {**missing, "correct": right}
    return Outcomes(
        "search", "simulation", "accuracy", id=ids, image=names, group=text, answer=text, **columns
    )
