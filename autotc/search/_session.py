"""What all steps of one run share: the spec, the store, the space, the evaluator, the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np

from autotc._outcomes import FLOATS, Outcomes, outcomes_from_columns
from autotc._process import ProcessLost
from autotc.cost import Cost, estimate
from autotc.device.gauge import Gauge
from autotc.errors import SpecError, StoreError, UnsupportedError
from autotc.metrics import Metric
from autotc.pareto import non_dominated
from autotc.policy import Number, Policy
from autotc.search._clock import Clock
from autotc.search._fidelity import Screen, Screening
from autotc.search._patience import Patience
from autotc.search._racing import rungs
from autotc.search.objectives import OBJECTIVES, QUALITY, violations
from autotc.search.space import Space
from autotc.search.spec import SearchSpec
from autotc.store import Store, TrialRow

# Errors of one evaluation that say nothing about the next one; the trial is recorded with the reason.
SURVIVABLE = (ArithmeticError, MemoryError, RuntimeError, UnsupportedError, ValueError)
FATAL = (SpecError, StoreError)
MOST_FAILURES = 5
MOST_LOSSES = 3  # evaluation processes that one trial may end

T = TypeVar("T")


class Evaluates(Protocol):
    """What a search needs of an evaluator."""

    def evaluate(self, policy: Policy | None, split: Any, n: int, *, start: int = 0) -> Outcomes:
        """Run a policy on examples start..start+n-1 of a split (fewer where there are no more)."""

    def numbers(self, outcomes: Outcomes) -> list[Number]:
        """Return the figures of an evaluation."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        phase: references, trials, selection or held-out.
        done, total: of that phase.
        trials, trials_total: finished trials of the study.
        front: policies on the front so far.
        best_quality: the best quality so far within the limits, None before the first, or where it is no objective.
        left_s: estimated seconds to the end, None while unknown.
    """

    phase: str
    done: int
    total: int
    trials: int
    trials_total: int
    front: int
    best_quality: float | None
    left_s: float | None


@dataclass
class Session:
    """One run of a study in one process.

    Args:
        name: of the study.
        on: the evaluated model, as numbers name it.
        get_evaluator: makes the evaluator when it is first needed.
        progress: called after each step.
        sizes: examples that each split has, where it is known.
        search_n: examples of the search split there really are; trials stopped early have fewer.
        screen: the proxy that looks at proposals first, None where the model runs them all.
        gauge: measures latency and memory of a policy on a GPU; None: they are estimates.
        patiently: what becomes of work that a database which is away could not take.
        environment: id of what this run is made with, once trials start.
    """

    spec: SearchSpec
    store: Store
    name: str
    space: Space
    on: str
    get_evaluator: Callable[[], Evaluates]
    clock: Clock
    progress: Callable[[Progress], None] | None = None
    notes: list[str] = field(default_factory=list)
    sizes: Mapping[str, int] = field(default_factory=dict)
    failures: int = 0
    search_n: int = 0
    screen: Screen | None = None
    gauge: Gauge | None = None
    patiently: Patience = field(default_factory=Patience)
    environment: int | None = None
    _screening: Screening | None = None
    _evaluator: Evaluates | None = None
    _kept: dict[tuple[int, str], Outcomes] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)

    @cached_property
    def objectives(self) -> tuple[Metric, ...]:
        """What the search aims at."""
        return self.spec.all_objectives()

    @property
    def races(self) -> bool:
        """Whether trials may be stopped early: quality is all that is measured, and compared by example."""
        return [m for m in self.objectives if not m.on_cost] == [QUALITY]

    @property
    def evaluator(self) -> Evaluates:
        """The evaluator, made at its first use."""
        if self._evaluator is None:
            self._evaluator = self.get_evaluator()
        return self._evaluator

    @property
    def screening(self) -> Screening | None:
        """What looks at proposals first, made at its first use; None where nothing does."""
        if self._screening is None and self.screen is not None and self.races:
            self._screening = Screening(self.screen, self.spec.workers)
        return self._screening

    # --- costs and limits ---

    def cost(self, policy: Policy, trace: Sequence[dict[str, Any]] = ()) -> Cost:
        """Return the cost on the full model; a trace charges what adaptive reducers really kept."""
        kept = None
        if len(trace) == len(policy.stages) and trace:
            kept = [
                s.keep if s.site == "input" or not t["asked"] else s.keep * min(1.0, t["kept"] / t["asked"])
                for s, t in zip(policy.stages, trace, strict=True)
            ]
        return estimate(policy, self.space.full, self.space.workload, kept=kept)

    def violations(self, costs: dict[str, Any]) -> dict[str, float]:
        """Return by how much costs exceed the user's limits; <= 0 is feasible."""
        return violations(self.spec.all_constraints(), costs)

    def feasible(self, row: TrialRow) -> bool:
        """Whether a finished trial is within this run's limits and was evaluated on all search examples."""
        number = row.number_of(QUALITY.name, "search")
        return (
            row.state == "complete"
            and number is not None
            and (number.n or 0) >= self.search_n
            and all(v <= 0 for v in self.violations(row.costs).values())
        )

    # --- evaluation ---

    def evaluate(self, policy: Policy, split: str, n: int, start: int = 0) -> Outcomes:
        """Run a policy of the full model on the evaluated one.

        Args:
            n: how many examples, from `start` on.
        """
        there = self.space.to_evaluated(policy) if policy.stages else None
        evaluator, seen = self.evaluator, self._seen.get(split, 0)
        with self.clock.evaluating(n, opens=start + n > seen):
            outcomes = evaluator.evaluate(there, split, n, start=start)
        self._seen[split] = max(seen, start + n)
        return outcomes

    def available(self, split: str, wanted: int) -> int:
        """Return how many of the wanted examples a split really has."""
        return min(wanted, self.sizes.get(split, wanted))

    def rungs(self) -> list[int]:
        """Return the totals of search examples at which a trial may be stopped."""
        return rungs(self.available("search", self.spec.examples), self.spec.from_presets and self.races)

    def evaluate_fully(self, policy: Policy, split: str, n: int) -> Outcomes:
        """Run a policy on the first n examples; on search in the increments of a race, to share prefills."""
        n = self.available(split, n)
        outcomes: Outcomes | None = None
        for total in self.rungs() if split == "search" else [n]:
            done = 0 if outcomes is None else len(outcomes)
            more = self.evaluate(policy, split, total - done, done)
            outcomes = more if outcomes is None else outcomes + more
        assert outcomes is not None
        return outcomes

    def insist(self, trial_id: int, run: Callable[[], T]) -> T:
        """Run a trial again when its evaluation process ends, which may have had other reasons.

        Raises:
            ProcessLost: the trial has ended as many processes, of whatever workers, as it may.
        """
        while True:
            try:
                return run()
            except ProcessLost as error:
                losses = self.patiently(lambda: self.store.add_loss(trial_id))
                if losses >= MOST_LOSSES:
                    raise ProcessLost(
                        f"the evaluation process ended {losses} times on this trial, which is left alone from now "
                        f"on; the last time: {error}"
                    ) from error

    def failed(self, error: Exception) -> str:
        """Count a failed evaluation and return its reason.

        Raises:
            Exception: the error itself when nothing else has worked for several trials.
        """
        self.failures += 1
        if isinstance(error, FATAL) or self.failures >= MOST_FAILURES:
            raise error
        return f"{type(error).__name__}: {error}"

    def outcomes(self, trial_id: int, split: str) -> Outcomes:
        """Return stored outcomes, read once."""
        key = (trial_id, split)
        if key not in self._kept:
            columns = self.patiently(lambda: self.store.outcomes(trial_id, split))
            lists: dict[str, Sequence[Any]] = {
                name: [None if name in FLOATS and v != v else v for v in values.tolist()]
                for name, values in columns.items()
            }
            self._kept[key] = outcomes_from_columns(lists, split=split, on=self.on, metric="")
        return self._kept[key]

    def keep(self, trial_id: int, outcomes: Outcomes) -> None:
        """Remember outcomes that were just stored."""
        self._kept[trial_id, outcomes.split] = outcomes

    def forget(self, trial_id: int, split: str) -> None:
        """Forget outcomes that were not stored after all."""
        self._kept.pop((trial_id, split), None)

    # --- reporting ---

    def report(self, phase: str, done: int, total: int, left_s: float | None, board: Board) -> None:
        """Tell the caller how far the run is."""
        if self.progress is not None:
            best = board.best(QUALITY)
            self.progress(
                Progress(
                    phase,
                    done,
                    total,
                    board.finished,
                    self.spec.trials,
                    len(board.front()),
                    best,
                    left_s,
                )
            )


@dataclass(frozen=True)
class Entry:
    """A trial that was evaluated on all search examples; `values` are those of the objectives, figures first.

    `seconds` is what it took an example, None where it was answered from the store.
    """

    trial_id: int
    number: int
    policy_id: str
    values: tuple[float, ...]
    seconds: float | None = None

    @property
    def quality(self) -> float:
        """The first figure: in a search that races, its quality."""
        return self.values[0]

    @property
    def costs(self) -> tuple[float, ...]:
        """What follows it: in a search that races, the costs."""
        return self.values[1:]


@dataclass
class Board:
    """Finished trials of the study, as racing and progress need them.

    Args:
        entries: evaluated on all search examples, within the limits.
        finished: trials finished in any way.
        full: quality of the uncompressed model on the search split, None before it is known.
        objectives: of the search.
    """

    entries: list[Entry] = field(default_factory=list)
    finished: int = 0
    full: float | None = None
    objectives: tuple[Metric, ...] = OBJECTIVES

    def points(self) -> np.ndarray:
        """Return the objectives' values of the entries, (n, objectives)."""
        return np.array([e.values for e in self.entries]).reshape(-1, len(self.objectives))

    def front(self) -> list[Entry]:
        """Return the entries on the front."""
        on = non_dominated(self.points(), [m.maximise for m in self.objectives])
        return [entry for entry, is_on in zip(self.entries, on, strict=True) if is_on]

    def best(self, metric: Metric) -> float | None:
        """Return the largest value of an objective, None where it is none or there are no entries."""
        if metric not in self.objectives or not self.entries:
            return None
        return float(self.points()[:, self.objectives.index(metric)].max())

    def incumbent(self, *costs: float) -> Entry | None:
        """Return the best entry that costs no more, None where there is none.

        Args:
            costs: one for each cost among the objectives of a search that races.
        """
        cheaper = [
            e for e in self.entries if all(mine <= limit for mine, limit in zip(e.costs, costs, strict=True))
        ]
        return max(cheaper, key=lambda e: (e.quality, [-c for c in e.costs])) if cheaper else None
