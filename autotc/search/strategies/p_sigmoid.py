"""P-Sigmoid: the share of tokens left falls along a sigmoid over depth, and its shape is searched.

Source: Accelerating Multimodal Large Language Models by Searching Optimal Vision Token Reduction, arXiv 2412.00556.
Differs: no code was released; this is a reconstruction. Two objectives instead of one budget: budgets are spread over
those of the study, and TPE learns the shape from all of them; the floor is a share of what the budget allows. Cuts
stand at the depths where a policy may cut. The sigmoid's middle may lie before the first or behind the last layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution

from autotc.policy import Policy
from autotc.search.space import Space
from autotc.search.strategies.drawn import Drawn
from autotc.search.strategies.layers import Layers
from autotc.search.strategies.spread import budget_place

STEPS = 24  # of the bisection for the middle


class _Sigmoids:
    """Steepness and floor of the curve; the middle is solved from the budget."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        low, high = layers.budget(0.0), layers.budget(1.0)
        self.distributions: Mapping[str, BaseDistribution] = {
            "sigmoid_budget": FloatDistribution(low, high, log=True),
            "sigmoid_steepness": FloatDistribution(0.05, 3.0, log=True),  # a layer
            "sigmoid_floor": FloatDistribution(0.0, 1.0),  # of the most that the budget allows everywhere
        }

    def decode(self, params: Mapping[str, Any]) -> Policy:
        """Return the curve's policy with the latest middle that the budget allows."""
        layers = self.layers
        steep, budget = params["sigmoid_steepness"], params["sigmoid_budget"]
        flat = layers.within([1.0] * len(layers.depths), budget).stages
        floor = params["sigmoid_floor"] * (flat[0].keep if flat else 1.0)
        depths = np.array(layers.depths, float)
        reach = 20 / steep  # farther out the curve is flat

        def keeps(middle: float) -> np.ndarray:
            return floor + (1 - floor) / (1 + np.exp(np.clip(steep * (depths - middle), -50, 50)))

        low, high = -reach, float(depths[-1]) + reach
        if layers.cost(layers.policy(keeps(low))) > budget:
            return layers.within(keeps(low), budget)  # the floor alone costs more
        for _ in range(STEPS):
            middle = (low + high) / 2
            if layers.cost(layers.policy(keeps(middle))) <= budget:
                low = middle
            else:
                high = middle
        return layers.policy(keeps(low))


def make(space: Space, seed: int) -> Drawn:
    """Return the strategy."""
    layers = Layers(space, strategy="p-sigmoid")
    sigmoids = _Sigmoids(layers)

    def given(number: int) -> dict[str, Any]:
        return {"sigmoid_budget": layers.budget(budget_place(seed, number))}

    return Drawn(sigmoids, seed, "tpe", given, sigmoids.decode)
