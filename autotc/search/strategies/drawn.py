"""Strategies that draw points with an Optuna sampler, in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import TrialState

from autotc.metrics import OBJECTIVES, Metric
from autotc.policy import Policy
from autotc.search import samplers
from autotc.search.strategies.base import Proposed, Seen


class Draws(Protocol):
    """A space to draw in."""

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Its parameters."""


def draw(
    memory: optuna.Study,
    distributions: Mapping[str, BaseDistribution],
    fixed: Mapping[str, Any],
    sampler: BaseSampler,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parameters that a sampler draws after the trials of a study in memory, and what it noted with them.

    Args:
        memory: the study; it gets one more trial, marked as failed, so that the told one can take its place.
        distributions: of the parameters.
        fixed: parameters that are given.
        sampler: draws the others.
    """
    memory.sampler = sampler
    if fixed:
        memory.enqueue_trial(dict(fixed))
    drawn = memory.ask(fixed_distributions=dict(distributions))
    attributes = dict(memory._storage.get_trial(drawn._trial_id).system_attrs)
    attributes.pop("fixed_params", None)
    memory.tell(drawn, state=TrialState.FAIL)
    return drawn.params, attributes


class Drawn:
    """Points drawn by a sampler.

    Args:
        space: whose parameters are drawn.
        seed: of the study.
        sampler: its name.
        given: parameters that are set for the trial of a number.
        decode: turns a point into a policy where the search's own space does not.
        objectives: what the sampler is told of.
    """

    def __init__(
        self,
        space: Draws,
        seed: int,
        sampler: str,
        given: Callable[[int], dict[str, Any]] = lambda number: {},
        decode: Callable[[Mapping[str, Any]], Policy] | None = None,
        objectives: Sequence[Metric] = OBJECTIVES,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._seed, self._sampler = space, seed, sampler
        self._given, self._decode = given, decode
        self._memory = optuna.create_study(directions=[o.direction for o in objectives])
        self._copied = 0
        self._common = IntersectionSearchSpace(include_pruned=True)

    def propose(
        self, history: Sequence[Seen], number: int, start: Mapping[str, Any] | None = None
    ) -> Proposed:
        """See `Strategy`."""
        distributions = self._space.distributions
        for seen in history[self._copied :]:
            self._memory.add_trial(_frozen(seen))
        self._copied = len(history)
        seed = samplers.trial_seed(self._seed, number)
        sampler = samplers.make(self._sampler, seed, space=self._common)
        params, attributes = draw(
            self._memory, distributions, self._given(number) if start is None else start, sampler
        )
        policy = None if self._decode is None else self._decode(params)
        return Proposed(params, policy, distributions, attributes)


def _frozen(seen: Seen) -> optuna.trial.FrozenTrial:
    return optuna.create_trial(
        params=dict(seen.proposed.params),
        distributions=dict(seen.proposed.distributions),
        values=seen.values or (seen.quality, seen.cost),
        system_attrs=dict(seen.proposed.attributes),
        constraints=dict(seen.violations),
    )
