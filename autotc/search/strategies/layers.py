"""Schedules over the layers of the language model: how many tokens are left at each depth where they may be cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotc._charge import reducer_work, total_tflops
from autotc.errors import SpecError
from autotc.policy import Policy, Stage
from autotc.search.space import Space

RULE = "fastv"  # the ranking that these papers share: attention of the last prompt token in the layer before


class Layers:
    """Policies that cut at many depths by one rule.

    Args:
        space: of the study; its limit is never exceeded.
        rule: the reducer.

    Raises:
        SpecError: the study leaves the rule out.
    """

    def __init__(self, space: Space, rule: str = RULE, strategy: str = "") -> None:
        if rule not in space.choices["decoder"]:
            raise SpecError(
                f"--strategy {strategy}: it cuts inside the language model by {rule!r}, which this search leaves out. "
                f"Allow it, or choose another strategy"
            )
        self.space, self.rule, self.depths = space, rule, space.depths["decoder"]
        self._charge = reducer_work(space.full)
        self.reachable = self.cost(self.policy([0.0] * len(self.depths)))

    def policy(self, keeps: Sequence[float] | np.ndarray) -> Policy:
        """Return the policy that leaves these shares of the tokens from each depth on.

        Args:
            keeps: (depths,), never rising; rounded to whole tokens, at least one. Cuts that cut nothing are left out.
        """
        stages, before = [], 1.0
        for layer, keep in zip(self.depths, keeps, strict=True):
            keep = self.space.whole(min(1.0, max(0.0, float(keep))))
            if keep < before:
                stages.append(Stage(site="decoder", layer=layer, reducer=self.rule, keep=keep))
                before = keep
        return Policy(model=self.space.model, stages=tuple(stages))

    def cost(self, policy: Policy) -> float:
        """Return the cost in the convention of the study's limit, TFLOP per 1,000 requests."""
        space = self.space
        return total_tflops(policy.stages, space.full, space.workload, space.convention, self._charge)

    def budget(self, place: float) -> float:
        """Return the budget at a place in [0, 1) of those that cuts inside the language model can meet."""
        low = min(self.space.high, max(self.space.low, self.reachable))
        return low * (self.space.high / low) ** place

    def within(self, keeps: Sequence[float] | np.ndarray, budget: float) -> Policy:
        """Return the policy of the largest common multiple of the keeps that costs at most a budget; as it is where
        that is met already.
        """
        wanted = np.minimum.accumulate(np.clip(np.asarray(keeps, float), 0.0, 1.0))
        policy = self.policy(wanted)
        if self.cost(policy) <= budget:
            return policy
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            if self.cost(self.policy(wanted * middle)) <= budget:
                low = middle
            else:
                high = middle
        return self.policy(wanted * low)
