"""What must hold of a study after anything that can happen to its workers: read from the database, computed anew.

Each invariant is a function of a finished study that returns complaints. Nothing here calls the code that wrote what is
checked: dominance, the figures of a trial and what the fake model answers are worked out again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from sqlalchemy import text

from autotc.errors import StoreAway
from autotc.search.spec import SearchSpec
from autotc.search.study import Study, open_ledger
from autotc.store import Store, StudyRow, TrialRow
from tests.fakes import FakeEvaluator
from tests.search.test_study import SETTING

Key = tuple[str, str, int | None, str | None, str, str, str]


@dataclass
class Seen:
    """Every finished trial that anybody could have read while a search ran, as it was then."""

    rows: dict[int, Key] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    over: set[str] = field(default_factory=set)

    def look(self, store: Store) -> None:
        """Note what is finished now; a database that is away is looked at another time."""
        try:
            for study in store.studies():
                if study.name in self.over:
                    continue
                for row in store.trials(study.name):
                    if row.state != "running":
                        key = self._key(row)
                        if self.rows.setdefault(row.id, key) != key:
                            self.changed.append(f"{self.rows[row.id]} became {key}")
                if study.state == "finished":
                    self.over.add(study.name)
        except StoreAway:
            return

    def missing(self, rows: list[TrialRow], study: str) -> list[str]:
        """Return the finished trials of a study that are not there any more, or other than they were."""
        now = {row.id: self._key(row) for row in rows}
        return [str(key) for id_, key in self.rows.items() if key[0] == study and now.get(id_) != key]

    @staticmethod
    def _key(row: TrialRow) -> Key:
        quality = row.number_of("quality", "search")
        figures = f"{row.finished} {row.costs} {row.violations} {quality}"
        return (row.study, row.role, row.number, row.label, row.state, row.policy.id, figures)


@dataclass
class Finished:
    """A study that should be over, with all that its invariants look at."""

    store: Store
    spec: SearchSpec
    seen: Seen

    @cached_property
    def name(self) -> str:
        assert self.spec.study is not None
        return self.spec.study

    @cached_property
    def row(self) -> StudyRow:
        found = self.store.study(self.name)
        assert found is not None, f"there is no study {self.name}"
        return found

    @cached_property
    def rows(self) -> list[TrialRow]:
        return self.store.trials(self.name)

    @cached_property
    def trials(self) -> list[TrialRow]:
        return [r for r in self.rows if r.role == "trial"]

    @property
    def lost(self) -> int:
        """How many trials were finished once and are not there as they were, or never came to be."""
        there = {t.number for t in self.trials}
        never = self.spec.trials - len(there & set(range(self.spec.trials)))
        return never + len(self.seen.missing(self.rows, self.name)) + len(self.seen.changed)

    @property
    def duplicated(self) -> int:
        """How many rows repeat another one's number, or reference."""
        return len(self.rows) - len({(r.role, r.number, r.label, r.policy.id) for r in self.rows})

    @cached_property
    def told(self) -> list[FrozenTrial]:
        ledger = open_ledger(self.store, self.name, self.spec)
        try:
            return ledger.study.get_trials()
        finally:
            ledger.close()

    @cached_property
    def study(self) -> Study:
        return Study(self.spec, self.store, SETTING)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self.store.engine.connect() as connection:
            found = connection.execute(text(statement), {"study": self.row.id})
            return [tuple(row) for row in found]


Complaints = Iterator[str]


def it_ended_by_itself(it: Finished) -> Complaints:
    """The study is finished, and so is every search that asked for it."""
    if it.row.state != "finished":
        yield f"the study is {it.row.state}"
    for job in it.store.jobs(study=it.name):
        if job.state != "finished":
            yield f"job {job.id} is {job.state}: {job.reason}"


def numbers_are_unique(it: Finished) -> Complaints:
    """Trials are numbered from 0 without a gap, references have one row a label and policy."""
    numbers = sorted(t.number if t.number is not None else -1 for t in it.trials)
    if numbers != list(range(it.spec.trials)):
        yield f"trials are numbered {numbers}, wanted 0 to {it.spec.trials - 1}"
    keys = Counter((r.role, r.number, r.label, r.policy.id) for r in it.rows)
    yield from (f"{key} is there {n} times" for key, n in keys.items() if n > 1)


def nothing_finished_is_lost(it: Finished) -> Complaints:
    """What was finished once is there now, as it was."""
    yield from it.seen.missing(it.rows, it.name)
    yield from it.seen.changed


def nothing_is_left_in_hand(it: Finished) -> Complaints:
    """No trial runs, no lease is held, nothing waits to be told."""
    yield from (f"trial {r.number or r.label} is running" for r in it.rows if r.state == "running")
    held = it.sql("SELECT l.worker, t.number FROM lease l JOIN trial t ON t.id = l.trial_id")
    yield from (f"{worker} has a lease on trial {number}" for worker, number in held)
    yield from (f"trial {t.number} was never told" for t in it.told if not t.state.is_finished())


def trials_are_whole(it: Finished) -> Complaints:
    """A complete trial has its figures, costs, trace and outcomes, and they are what the model answers."""
    model = FakeEvaluator()
    for row in it.rows:
        name = row.label if row.role == "reference" else f"trial {row.number}"
        if "tflops_exact" not in row.costs or row.finished is None:
            yield f"{name} has no costs or no time"
        if row.state != "complete":
            if row.reason is None:
                yield f"{name} is {row.state} without a reason"
            continue
        if len(row.trace) != len(row.policy.stages):
            yield f"{name} has a trace of {len(row.trace)} of {len(row.policy.stages)} stages"
        if row.number_of("quality", "search") is None:
            yield f"{name} has no quality on search"
        policy = it.study.space.to_evaluated(row.policy) if row.policy.stages else None
        for split in ("search", "selection", "held-out"):
            quality = row.number_of("quality", split)
            there = it.store.outcomes(row.id, split)
            if quality is None:
                if len(there["id"]):
                    yield f"{name} has outcomes on {split}, but no quality"
                continue
            right = model.evaluate(policy, split, quality.n or 0)
            if there["id"].tolist() != right.id.tolist() or len(right.id) != quality.n:
                yield f"{name} has {len(there['id'])} outcomes on {split} and a quality of {quality.n}"
            elif not all(np.array_equal(there[c], getattr(right, c)) for c in ("correct", "kl", "answer")):
                yield f"{name} has other outcomes on {split} than the model gives"
            elif not np.isclose(quality.value, right.correct.mean()):
                yield f"{name} has quality {quality.value} on {split}, its outcomes {right.correct.mean()}"


def the_sampler_knows_what_is_stored(it: Finished) -> Complaints:
    """Optuna was told each trial once, with the stored figures and constraints; the rest it was told to forget."""
    stored = {row.number: row for row in it.trials}
    told = {t.number: t for t in it.told if t.state.name == "COMPLETE"}
    if told.keys() != stored.keys():
        yield f"told {sorted(told)}, stored {sorted(n for n in stored if n is not None)}"
    for number in told.keys() & stored.keys():
        row, trial = stored[number], told[number]
        quality = row.number_of("quality", "search")
        if trial.values[1] != row.costs.get("tflops_exact"):
            yield f"trial {number} was told with cost {trial.values[1]}, stored is {row.costs.get('tflops_exact')}"
        # one that was stopped early is told what compares with full evaluations
        full = quality is not None and (quality.n or 0) >= it.spec.examples
        if full and trial.values[0] != quality.value:
            yield f"trial {number} was told with quality {trial.values[0]}, stored is {quality.value}"
        if trial.constraints != row.violations:
            yield f"trial {number} was told with {trial.constraints}, stored is {row.violations}"


def the_front_is_the_front(it: Finished) -> Complaints:
    """One front was published; its members are those that nothing measured beats, with the figures that are stored."""
    fronts = it.store.fronts(it.name)
    if len(fronts) != 1:
        yield f"{len(fronts)} fronts were published"
        return
    first: dict[str, tuple[int, float, TrialRow]] = {}
    for row in it.trials:
        searched, quality = row.number_of("quality", "search"), row.number_of("quality", "selection")
        whole = searched is not None and (searched.n or 0) >= it.spec.examples
        within = row.state == "complete" and max(row.violations.values(), default=0) <= 0
        if whole and within and searched is not None and quality is not None:
            # of all examples looked at before held-out, those of both splits: the right answers
            right = sum(round(q.value * (q.n or 0)) for q in (searched, quality))
            first.setdefault(row.policy.id, (right, row.costs.get("tflops_exact", math.nan), row))
    points = list(first.values())
    on = [
        row
        for q, c, row in points
        if not any(q2 >= q and c2 <= c and (q2, c2) != (q, c) for q2, c2, _ in points)
        and not any((q2, c2) == (q, c) and r2.id < row.id for q2, c2, r2 in points)
    ]
    members = fronts[0].members
    if {m.trial_id for m in members} != {row.id for row in on}:
        where = {row.id: (right, cost) for right, cost, row in points}
        published = {m.trial_id: where.get(m.trial_id) for m in members}
        yield f"published {published}, computed {[(row.id, where[row.id]) for row in on]}"
    now = {row.id: row for row in it.rows}
    for member in members:
        row = now[member.trial_id]
        if member.costs != row.costs or member.numbers != row.numbers:
            yield f"trial {row.number} was published with other figures than it has"
        if row.number_of("quality", "held-out") is None:
            yield f"trial {row.number} is on the front and was not measured on held-out"


INVARIANTS: tuple[Callable[[Finished], Complaints], ...] = (
    it_ended_by_itself,
    numbers_are_unique,
    nothing_finished_is_lost,
    nothing_is_left_in_hand,
    trials_are_whole,
    the_sampler_knows_what_is_stored,
    the_front_is_the_front,
)


def complaints(it: Finished) -> dict[str, list[str]]:
    """Return what each invariant that is broken complains about."""
    it.store.check()  # damage that the database's own checks find makes the rest meaningless
    found = {check.__name__: list(check(it)) for check in INVARIANTS}
    return {name: said for name, said in found.items() if said}
