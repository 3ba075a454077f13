"""Visual token withdrawal: at which depth can all tokens leave?

Source: Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference, arXiv 2405.05803.
Differs: the authors take the first layer whose answers differ from the whole model's by a divergence below a
threshold; here each depth within the limit is a trial, the shallowest first, and the front holds them all, since a
study weighs score against cost. Depths over the limit are never tried; there are few others, so it ends early.
"""

from __future__ import annotations

from autotc.cost import estimate
from autotc.errors import SpecError
from autotc.policy import Policy, Stage
from autotc.search.space import Space
from autotc.search.strategies.base import Plan, Replayed


class Withdrawal(Replayed):
    """See the module."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        if not space.withdrawing:
            raise SpecError(
                "--strategy vtw: it takes all tokens away at a depth, which this search leaves out. "
                "Allow the reducer 'withdraw', or choose another strategy"
            )
        self._space = space

    def plan(self) -> Plan:
        """See `Replayed`."""
        space = self._space
        for layer in space.depths["decoder"]:
            stage = Stage(site="decoder", layer=layer, reducer=space.withdrawing[0], keep=0.0)
            policy = Policy(model=space.model, stages=(stage,))
            if estimate(policy, space.full, space.workload).get(space.convention) <= space.high:
                yield policy


def make(space: Space, seed: int) -> Withdrawal:
    """Return the strategy; it does not depend on the seed."""
    return Withdrawal(space)
