"""A scrambled Sobol sequence over the search's space: spread, and blind to results."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import qmc

from autotc.metrics import OBJECTIVES, Metric
from autotc.search.space import Space
from autotc.search.strategies.base import Proposed, Seen
from autotc.search.strategies.points import from_unit


class Sobol:
    """The point of a trial is that of its number in the sequence."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed

    def propose(
        self, history: Sequence[Seen], number: int, start: Mapping[str, Any] | None = None
    ) -> Proposed:
        """See `Strategy`."""
        distributions = self._space.distributions
        if start is not None:
            return Proposed(start, None, distributions)
        sequence = qmc.Sobol(len(distributions), rng=self._seed)
        if number:
            sequence.fast_forward(number)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # one point is no balanced set, but the whole sequence is
            place = sequence.random(1)[0]
        return Proposed(from_unit(distributions, place), None, distributions)


def make(space: Space, seed: int, objectives: Sequence[Metric] = OBJECTIVES) -> Sobol:
    """Return the strategy; it does not depend on the objectives."""
    return Sobol(space, seed)
