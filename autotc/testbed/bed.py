"""A test-bed ready for searches: policies, their costs and answers, three parts of the examples, a surrogate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotc.cost import estimate
from autotc.errors import SpecError
from autotc.leaderboard import SHARES
from autotc.policy import Policy
from autotc.search._dimensions import counts
from autotc.search.space import Space
from autotc.testbed.lattice import PRESET, Point, budget
from autotc.testbed.measure import BLOCK, DONE, EMPTY, FAILED, Measured
from autotc.testbed.surrogate import Surrogate

PARTS = ("search", "selection", "held-out")
OF_FOUR = (0, 0, 1, 2)  # part of every four images: two for the search, one each to pick by and to report
LEAST = 40  # policies; with fewer a surrogate says nothing


@dataclass(frozen=True)
class Answers:
    """What a policy answers on the test-bed.

    Args:
        correct: (n,) bool.
        cost: exact, of the tokens really kept, TFLOP per 1,000 requests.
        distance: from the lattice; 0 for a policy of it, whose answers were measured.
    """

    correct: np.ndarray
    cost: float
    distance: float


class Bed:
    """Answers of any policy of a space.

    Args:
        space: that is searched.
        points: the policies, presets first.
        measured: what they answered; policies and examples that are not there yet are left out.
        wanted: examples of a complete test-bed.

    Raises:
        SpecError: too few policies have been measured.
    """

    def __init__(
        self, space: Space, points: Sequence[Point], measured: Measured, wanted: int | None = None
    ) -> None:
        self.space, self.measured = space, measured
        done = np.logical_and.accumulate(measured.state == DONE, axis=1)
        widths = np.arange(1, done.shape[1] + 1)
        blocks = int(widths[np.argmax(done.sum(0) * widths)])  # what is there of a part run: most answers
        there = done[:, blocks - 1]
        if there.sum() < LEAST:
            raise SpecError(
                f"the test-bed has {int(there.sum())} measured policies, at least {LEAST} are needed. "
                "Go on with: autotc bench testbed"
            )
        n = blocks * BLOCK
        index = np.flatnonzero(there).tolist()
        self.points = [points[i] for i in index]
        self.policies = [p.policy for p in self.points]
        self.correct = measured.correct[index, :n]
        self.image = measured.image[:n]
        self.full, self.blind = measured.full[:n], measured.blind[:n]
        self.costs = np.array([self._cost(points[i].policy, measured.kept[i]) for i in index])
        self.presets = np.array([p.kind == PRESET for p in self.points])
        part = np.array([OF_FOUR[k % len(OF_FOUR)] for k in self.image])
        self.parts = {name: np.flatnonzero(part == i) for i, name in enumerate(PARTS)}
        self.limits = {
            share: budget(space.full, space.workload, share, "exact") for share in SHARES
        }  # exact cost of the budgets
        self.failed = int((measured.state == FAILED).any(1).sum())
        self.of, self.wanted = (len(points), n), wanted or len(measured.full)
        self._index = {self.identity(p): i for i, p in enumerate(self.policies)}

    @property
    def complete(self) -> bool:
        """Whether every policy was run on every example, or failed."""
        whole = len(self.measured.state) == self.of[0] and bool((self.measured.state != EMPTY).all())
        return whole and self.wanted <= len(self.full)

    @property
    def status(self) -> str:
        """Say what it holds, and plainly so where that is not all."""
        policies, n = len(self.policies), len(self.full)
        if self.complete:
            text = f"complete: {policies:,} policies on {n} examples"
        else:
            text = (
                f"INCOMPLETE: {policies:,} of {self.of[0]:,} policies on {n} of {self.wanted} examples; "
                "figures will change. Go on with: autotc bench testbed"
            )
        return text + (f"; {self.failed} policies could not be run and are left out" if self.failed else "")

    @cached_property
    def surrogate(self) -> Surrogate:
        """What lies between the measured policies."""
        return Surrogate(self.policies, self.costs, self.correct)

    def tokens(self, share: float) -> str:
        """Return how many visual tokens of the first request's images a budget stands for."""
        request = self.space.workload.requests[0]
        return str(
            round(share * self.space.full.visual_tokens(request.width, request.height, request.images))
        )

    def identity(self, policy: Policy) -> tuple[object, ...]:
        """Return what the policy does to the workload's images, in tokens."""
        space = self.space
        return counts(
            policy, (space.full.visual_tokens(r.width, r.height, r.images) for r in space.workload.requests)
        )

    def answers(self, policy: Policy) -> Answers:
        """Return what a policy answers: as measured, or as drawn from the surrogate."""
        i = self._index.get(self.identity(policy))
        if i is not None:
            return Answers(self.correct[i], float(self.costs[i]), 0.0)
        cost = self._cost(policy, None)
        correct, distance = self.surrogate.answers(policy, cost)
        return Answers(correct, cost, distance)

    def means(self, correct: np.ndarray) -> dict[str, np.ndarray]:
        """Return the quality on each part of the examples, of answers (..., n)."""
        return {name: correct[..., index].mean(-1) for name, index in self.parts.items()}

    def _cost(self, policy: Policy, kept: np.ndarray | None) -> float:
        given = None if kept is None else [float(k) for k in kept[: len(policy.stages)]]
        return estimate(policy, self.space.full, self.space.workload, kept=given).tflops_exact
