"""What a strategy is: it reads the trials so far and says what to try next."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.distributions import BaseDistribution

from autotc.policy import Policy


@dataclass(frozen=True)
class Proposed:
    """What to try next: a point of the search's space, or a policy outside of it.

    Args:
        params: the point; empty for a policy that is none.
        policy: for the full model; None where the space decodes it from `params`.
        distributions: of `params`.
        attributes: what the strategy wants to find again with the trial, plain JSON data.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy | None = None
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A finished trial.

    Args:
        number: of the trial.
        proposed: what was tried.
        quality: on the search examples, 0 where it could not be run; of a trial that was stopped early, as the best
            one at its cost less the paired difference.
        cost: exact, TFLOP per 1,000 requests.
        violations: by how much each limit is broken; <= 0 is within it.
        values: of a search with objectives of its own, one each in their order; `quality` and `cost` are then the
            first figure among them, turned so that more is better, and the first cost.
    """

    number: int
    proposed: Proposed
    quality: float
    cost: float
    violations: Mapping[str, float] = field(default_factory=dict)
    values: tuple[float, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether it is within every limit."""
        return all(v <= 0 for v in self.violations.values())


class Strategy(Protocol):
    """One way to search. All it knows is in the history, so a study that was killed goes on as it would have."""

    def propose(
        self, history: Sequence[Seen], number: int, start: Mapping[str, Any] | None = None
    ) -> Proposed | None:
        """Return what the trial of a number is to be, None when there is nothing more to try.

        Args:
            history: finished trials in the order of their numbers; those of a strategy that starts from presets
                hold the presets first.
            number: of trials asked for so far.
            start: a point of the search's space that is to be proposed now, so that the strategy can note what it
                needs with it; given only to those that start from presets.
        """


Plan = Generator[Policy, float, None]


class Replayed:
    """A strategy written as a plan: a generator that yields policies and is sent each one's quality.

    The plan is kept between calls and sent what is new; a new process sends it the whole history.
    """

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._sent = 0
        self._next: Policy | None = None

    def plan(self) -> Plan:
        """Yield policies for the full model, be sent their quality on the search examples; ends where it ends."""
        raise NotImplementedError

    def propose(
        self, history: Sequence[Seen], number: int, start: Mapping[str, Any] | None = None
    ) -> Proposed | None:
        """See `Strategy`."""
        if self._plan is None or len(history) < self._sent:
            self._plan, self._sent = self.plan(), 0
            self._next = next(self._plan, None)
        for seen in history[self._sent :]:
            if self._next is None:
                break
            self._sent += 1
            try:
                self._next = self._plan.send(seen.quality if seen.feasible else 0.0)
            except StopIteration:
                self._next = None
        return None if self._next is None else Proposed(policy=self._next)
