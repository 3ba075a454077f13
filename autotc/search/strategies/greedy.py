"""G-Search: from shallow to deep, the fewest tokens with which the score stays above a tolerance.

Source: Accelerating Multimodal Large Language Models by Searching Optimal Vision Token Reduction, arXiv 2412.00556.
Differs: no code was released; this is a reconstruction. The search starts at the study's limit, not at the whole image,
and what counts as no loss is measured against the score there. The fewest tokens are found by bisection. A front needs
several tolerances: they are worked through from the strictest on.
"""

from __future__ import annotations

from autotc.search.space import Space
from autotc.search.strategies.base import Plan, Replayed
from autotc.search.strategies.layers import Layers

TOLERANCES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)  # of the score
STEPS = 5  # of a bisection


class Greedy(Replayed):
    """See the module."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self._layers = Layers(space, strategy="greedy")

    def plan(self) -> Plan:
        """See `Replayed`."""
        layers = self._layers
        n = len(layers.depths)
        start = layers.within([1.0] * n, layers.space.high)
        known: dict[str, float] = {}
        first = start.stages[0].keep if start.stages else 1.0
        base = yield start
        known[start.id] = base
        for tolerance in TOLERANCES:
            keeps = [first] * n
            for depth in range(n):
                low, high = 0.0, keeps[depth]  # low is not known to be enough, high is
                for _ in range(STEPS):
                    middle = (low + high) / 2
                    policy = layers.policy([*keeps[:depth], *[middle] * (n - depth)])
                    if policy.id not in known:
                        known[policy.id] = yield policy
                    if known[policy.id] >= base - tolerance:
                        high = middle
                    else:
                        low = middle
                keeps[depth:] = [high] * (n - depth)


def make(space: Space, seed: int) -> Greedy:
    """Return the strategy; it does not depend on the seed."""
    return Greedy(space)
