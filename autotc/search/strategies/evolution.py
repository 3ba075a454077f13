"""Evolutionary search of lengths: how many tokens each depth is left with.

Source: Length-Adaptive Transformer, arXiv 2010.07003: a gene is a tuple of lengths that never rises; parents lie on
the convex hull of the front; children are mutants, or means of two parents.
Differs: lengths are shares of the image's tokens at the depths where a policy may cut, ranked as the other schedules
are. A child over the limit is scaled down to it. Chances and sizes are of this implementation: the first generation
holds `START` uniform lengths and random ones, each later one is `GENERATION` children, half of them mutants.
"""

from __future__ import annotations

import numpy as np

from autotc.pareto import non_dominated
from autotc.policy import Policy
from autotc.search.space import Space
from autotc.search.strategies.base import Plan, Replayed
from autotc.search.strategies.layers import Layers

START = 12
GENERATION = 10
MUTATION = 0.5  # chance that a length is drawn anew


class Evolution(Replayed):
    """See the module."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__()
        self._layers, self._seed = Layers(space, strategy="evolution"), seed

    def plan(self) -> Plan:
        """See `Replayed`."""
        layers, rng = self._layers, np.random.default_rng([self._seed, 1])
        n = len(layers.depths)
        seen: set[str] = set()
        genes: list[np.ndarray] = []
        points: list[tuple[float, float]] = []
        waiting = [np.full(n, layers.budget(i / START) / layers.space.ceiling) for i in range(START // 2)]
        waiting += [np.sort(rng.random(n))[::-1] for _ in range(START - START // 2)]
        while True:
            tried = 0
            for gene in waiting:
                budget = layers.budget(float(rng.random())) if len(genes) < START else layers.space.high
                policy = layers.within(gene, budget)
                if policy.id in seen or not policy.stages:
                    continue
                seen.add(policy.id)
                tried += 1
                quality = yield policy
                genes.append(_lengths(layers, policy))
                points.append((quality, layers.cost(policy)))
            parents = [genes[i] for i in _hull(np.array(points))]
            waiting = []
            for child in range(GENERATION):
                first = parents[rng.integers(len(parents))]
                second = parents[rng.integers(len(parents))]
                waiting.append(
                    (first + second) / 2 if child % 2 and len(parents) > 1 else _mutant(first, rng)
                )
            if not tried:  # the front's parents have no new children: fresh blood
                waiting += [np.sort(rng.random(n))[::-1]]


def _lengths(layers: Layers, policy: Policy) -> np.ndarray:
    keeps, alive, stages = [], 1.0, {s.layer: s.keep for s in policy.stages}
    for layer in layers.depths:
        alive = stages.get(layer, alive)
        keeps.append(alive)
    return np.array(keeps)


def _mutant(gene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a gene with some lengths drawn anew between their new left and their old right neighbour."""
    child = gene.copy()
    for i in range(len(child)):
        high = child[i - 1] if i else 1.0
        low = gene[i + 1] if i + 1 < len(gene) else 0.0
        if rng.random() < MUTATION:
            child[i] = rng.uniform(min(low, high), high)
        child[i] = min(child[i], high)
    return child


def _hull(points: np.ndarray) -> list[int]:
    """Return those of (quality, cost) on the upper convex hull of the front, cheapest first."""
    front = np.flatnonzero(non_dominated(points, maximise=(True, False)))
    hull: list[int] = []
    for i in front[np.argsort(points[front, 1])].tolist():
        while len(hull) > 1 and _turn(points[hull[-2]], points[hull[-1]], points[i]) >= 0:
            hull.pop()
        hull.append(i)
    return hull


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Positive where b lies below the line from a to c (quality over cost)."""
    return float((b[1] - a[1]) * (c[0] - a[0]) - (b[0] - a[0]) * (c[1] - a[1]))


def make(space: Space, seed: int) -> Evolution:
    """Return the strategy."""
    return Evolution(space, seed)
