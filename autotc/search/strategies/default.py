"""The own default: expected growth of the front, given what policies cost and a process over their quality.

What a policy costs is known before it runs, so only its quality is uncertain: how much the area under the front is
expected to grow has a closed form. Candidates are points of the space: drawn anew, changed from those on the front,
and crossed from two of them; of those within every limit on costs the most promising is proposed. The first trials
are presets, then points drawn at evenly spread budgets. With more than two objectives each proposal goes after one
figure and one cost, which weigh the given ones at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from autotc.cost import estimate
from autotc.metrics import OBJECTIVES, Metric
from autotc.policy import Policy
from autotc.search._dimensions import counts
from autotc.search.space import Space
from autotc.search.strategies._belief import MOST, Belief, Features, Scales, features, fit
from autotc.search.strategies.base import Proposed, Seen
from autotc.search.strategies.points import from_unit
from autotc.search.strategies.spread import budget_place

DRAWN_MARK = "autotc:drawn"  # of a trial whose point was drawn
DRAWN = 8  # points drawn before the process is asked
CANDIDATES = 40
FRESH, CROSSED = 0.25, 0.25  # shares of the candidates that are drawn anew and crossed; the rest is changed
CHANGES = 2.0  # parameters of a changed point that are drawn anew, on average; the budget is one more
STEP = 0.35  # standard deviation of a change of the budget, in octaves
GROWTH = 1.5  # scales are fitted again when there are so many times as many trials


@dataclass(frozen=True)
class Aim:
    """One figure and one cost.

    Args:
        quality: (n,) of the trials, more is better.
        costs: (n,) of the trials.
        metrics: (c,) costs that `costs` adds up.
        weights: (c,) of them.
    """

    quality: np.ndarray
    costs: np.ndarray
    metrics: tuple[Metric, ...]
    weights: np.ndarray

    def price(self, costs: Mapping[str, Any]) -> float:
        """Return what a policy costs."""
        return float(sum(w * m.of(costs) for w, m in zip(self.weights, self.metrics, strict=True)))


class Informed:
    """See the module.

    Args:
        space: of the study.
        seed: of the study.
        objectives: of the study, figures before costs.
    """

    def __init__(self, space: Space, seed: int, objectives: Sequence[Metric] = OBJECTIVES) -> None:
        self._space, self._seed, self._objectives = space, seed, tuple(objectives)
        self._known: dict[int, tuple[Features, tuple[object, ...]]] = {}
        self._scales: tuple[int, Scales] = (0, Scales())
        sizes = (space.full.visual_tokens(r.width, r.height, r.images) for r in space.workload.requests)
        self._sizes = sorted(set(sizes))

    def propose(
        self, history: Sequence[Seen], number: int, start: Mapping[str, Any] | None = None
    ) -> Proposed:
        """See `Strategy`."""
        space, rng = self._space, np.random.default_rng([self._seed, number])
        if start is not None:
            return Proposed(start, None, space.distributions)
        known = [s for s in history if s.feasible]
        drawn = sum(DRAWN_MARK in s.proposed.attributes for s in history)
        if drawn < DRAWN or len(known) < DRAWN:
            return Proposed(self._fresh(rng, number), None, space.distributions, {DRAWN_MARK: True})
        return Proposed(self._best(known, number, rng), None, space.distributions)

    def _read(self, seen: Seen) -> Features:
        """Return what a trial's policy does; those that were read are not proposed again."""
        if seen.number not in self._known:
            policy = seen.proposed.policy or self._space.decode(seen.proposed.params).policy
            self._known[seen.number] = features(policy), counts(policy, self._sizes)
        return self._known[seen.number][0]

    def _fresh(self, rng: np.random.Generator, number: int) -> dict[str, Any]:
        """Draw a point at the budget of its number, within the limits if one is found, if need be at another budget."""
        space, point = self._space, {}
        budget = space.low * (space.high / space.low) ** budget_place(self._seed, number)
        for i in range(CANDIDATES):
            point = from_unit(space.distributions, rng.random(len(space.distributions)))
            if i < CANDIDATES // 2:
                point["budget"] = budget
            if not space.limits or self._allowed(self._costs(space.decode(point).policy)):
                break
        return point

    def _costs(self, policy: Policy) -> dict[str, Any]:
        return estimate(policy, self._space.full, self._space.workload).as_dict()

    def _allowed(self, costs: Mapping[str, Any]) -> bool:
        return all(limit.violation(costs) <= 0 for limit in self._space.limits)

    def _best(self, known: Sequence[Seen], number: int, rng: np.random.Generator) -> dict[str, Any]:
        """Return the candidate by which the front is expected to grow most."""
        aim = self._aim(known, rng)
        costs, quality = aim.costs, aim.quality
        most = float(costs.max())
        scales = self._fitted(known, costs, quality)
        if len(known) > MOST:  # of a long history only those that matter are read
            nearest = np.sort(np.argsort(_below(costs, quality), kind="stable")[:MOST])
            costs, quality, known = costs[nearest], quality[nearest], [known[i] for i in nearest]
        tried = [self._read(s) for s in known]
        belief = Belief(tried, costs, quality, most, scales)
        expected, _ = belief(tried, costs)
        front = _front(costs, expected)
        parents = [known[i].proposed.params for i in front]
        points, there, prices = self._candidates(parents, aim, rng)
        if not points:
            return self._fresh(rng, number)
        mean, deviation = belief(there, prices)
        gains = growth(costs[front], expected[front], max(most, float(prices.max())), prices, mean, deviation)
        return points[int(np.argmax(gains))]

    def _aim(self, known: Sequence[Seen], rng: np.random.Generator) -> Aim:
        """Return the figure and the cost that this proposal goes after."""
        figures = [m for m in self._objectives if not m.on_cost]
        costs = tuple(m for m in self._objectives if m.on_cost)
        if len(self._objectives) == 2 and self._objectives[0].share:
            return Aim(
                np.array([s.quality for s in known]), np.array([s.cost for s in known]), costs, np.ones(1)
            )
        values = np.array([s.values or (s.quality, s.cost) for s in known])
        signs = np.array([1.0 if m.maximise else -1.0 for m in figures])
        ranges = np.array(
            [1.0 if m.share else max(1e-12, float(np.ptp(values[:, i]))) for i, m in enumerate(figures)]
        )
        weights = rng.dirichlet(np.ones(len(costs))) / values[:, len(figures) :].max(0)
        quality = (values[:, : len(figures)] * signs / ranges) @ rng.dirichlet(np.ones(len(figures)))
        return Aim(quality, values[:, len(figures) :] @ weights, costs, weights)

    def _candidates(
        self, parents: Sequence[Mapping[str, Any]], aim: Aim, rng: np.random.Generator
    ) -> tuple[list[dict[str, Any]], list[Features], np.ndarray]:
        """Return points that were not tried and lie within the limits, what they do, and what they cost."""
        space = self._space
        keys = {key for _, key in self._known.values()}
        points, there, prices = [], [], []
        for k in range(CANDIDATES):
            point = self._candidate(k / CANDIDATES, parents, rng)
            policy = space.decode(point).policy
            key = counts(policy, self._sizes)
            if key in keys:
                continue
            keys.add(key)
            costs = self._costs(policy)
            if self._allowed(costs):
                points.append(point)
                there.append(features(policy))
                prices.append(aim.price(costs))
        return points, there, np.array(prices)

    def _fitted(self, known: Sequence[Seen], costs: np.ndarray, quality: np.ndarray) -> Scales:
        """Return scales fitted on the first trials, so many that they seldom change."""
        steps = math.floor(math.log(max(1.0, len(known) / (2 * DRAWN))) / math.log(GROWTH) + 1e-9)
        n = min(len(known), math.ceil(2 * DRAWN * GROWTH**steps), MOST // 2)
        if self._scales[0] != n:
            tried = [self._read(s) for s in known[:n]]
            self._scales = n, fit(tried, costs[:n], quality[:n], float(costs.max()))
        return self._scales[1]

    def _candidate(
        self, place: float, parents: Sequence[Mapping[str, Any]], rng: np.random.Generator
    ) -> dict[str, Any]:
        fresh = from_unit(self._space.distributions, rng.random(len(self._space.distributions)))
        able = [p for p in parents if p]  # a policy that is no point has no parameters
        if place < FRESH or not able:
            return fresh
        one = able[int(rng.integers(len(able)))]
        budget = float(one["budget"]) * 2 ** (STEP * rng.standard_normal())
        fresh["budget"] = min(self._space.high, max(self._space.low, budget))
        if place < FRESH + CROSSED and len(able) > 1:
            other = able[int(rng.integers(len(able)))]
            child = {name: (one if rng.random() < 0.5 else other).get(name, fresh[name]) for name in fresh}
        else:
            chance = CHANGES / (len(fresh) - 1)
            child = {
                name: fresh[name] if rng.random() < chance else one.get(name, fresh[name]) for name in fresh
            }
        return {**child, "budget": fresh["budget"]}


def growth(
    costs: np.ndarray,
    quality: np.ndarray,
    most: float,
    prices: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
) -> np.ndarray:
    """Return by how much the area under a front is expected to grow with one more policy, (m,).

    Args:
        costs, quality: (f,) of the front, cheapest first, both rising.
        most: cost up to which the area counts.
        prices: (m,) what each policy costs.
        mean, deviation: (m,) of its quality, which is taken as normal.
    """
    edges = np.append(costs, max(most, float(costs[-1])))
    left = np.maximum(edges[:-1], prices[:, None])
    widths = np.maximum(edges[1:] - left, 0.0)  # (m, f)
    excess = (mean[:, None] - quality) / deviation[:, None]
    gain = deviation[:, None] * (excess * norm.cdf(excess) + norm.pdf(excess))
    found = (widths * gain).sum(1)
    cheaper = np.maximum(costs[0] - prices, 0.0)  # where the front says nothing yet, its least quality counts
    return np.asarray(found + cheaper * gain[:, 0])


def _front(costs: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Return indices of the front, cheapest first."""
    order = np.lexsort([-quality, costs])
    best = np.maximum.accumulate(quality[order])
    return order[np.concatenate([[True], best[1:] > best[:-1]])]


def _below(costs: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Return how far each trial lies below the best that costs no more."""
    order = np.lexsort([-quality, costs])
    found = np.empty(len(costs))
    found[order] = np.maximum.accumulate(quality[order]) - quality[order]
    return found


def make(space: Space, seed: int, objectives: Sequence[Metric] = OBJECTIVES) -> Informed:
    """Return the strategy."""
    return Informed(space, seed, objectives)
