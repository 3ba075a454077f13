"""The store as a dashboard reads it: the same rows, what changed since, who works on what; it can't write."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select

from autotc.store.rows import Row
from autotc.store.schema import Cost, Lease, Metric, Study, Trial
from autotc.store.store import Store

Version = tuple[str, ...]
COSTS = ("tflops_literature", "tflops_exact", "memory_gib")


@dataclass(frozen=True)
class WorkRow(Row):
    """A trial in hand: who took it when, and until when others leave it alone unless the worker says more."""

    study: str
    number: int | None
    label: str | None
    worker: str
    taken: datetime
    expires: datetime


class Glance(NamedTuple):
    """What a list of studies needs of a finished trial.

    Args:
        number: of the trial.
        qualities: split, value, standard error, n.
        costs: as stored.
    """

    number: int
    qualities: list[tuple[str, float, float | None, int | None]]
    costs: dict[str, float]


class Reader(Store):
    """A store whose database refuses every write.

    Args:
        url: as for `Store`.

    Raises:
        StoreError: not an address, or a driver that is not installed.
    """

    def __init__(self, url: str | None = None) -> None:
        super().__init__(url, check=False, read_only=True)

    def versions(self) -> dict[str, Version]:
        """Return for each study, oldest first, a key that changes when anything that is shown of it changes."""
        if not self._ready():
            return {}
        with self._read() as connection:
            chosen = select(Study.name, Study.changes).order_by(Study.id)
            return {name: (str(changes),) for name, changes in connection.execute(chosen)}

    def glances(self, quality: str = "quality", costs: Collection[str] = COSTS) -> dict[str, list[Glance]]:
        """Return for each study its completed trials, references apart, in a fixed number of statements.

        Args:
            quality: name of the figure to read.
            costs: which of the stored costs.
        """
        if not self._ready():
            return {}
        done = (Trial.role == "trial", Trial.state == "complete")
        trials = select(Trial.id, Study.name, Trial.number, Cost.json).where(*done)
        trials = trials.join(Study, Trial.study_id == Study.id).join(Cost, Cost.trial_id == Trial.id)
        figures = select(Metric.trial_id, Metric.split, Metric.value, Metric.stderr, Metric.n)
        figures = figures.join(Trial, Metric.trial_id == Trial.id).where(*done, Metric.name == quality)
        found: dict[str, list[Glance]] = {}
        by_id: dict[int, Glance] = {}
        with self._read() as connection:
            for id_, study, number, cost in connection.execute(trials.order_by(Trial.id)):
                one = Glance(number, [], {name: cost[name] for name in costs if name in cost})
                found.setdefault(study, []).append(one)
                by_id[id_] = one
            for id_, split, value, stderr, n in connection.execute(figures):
                if id_ in by_id:  # not one that finished between the two statements
                    by_id[id_].qualities.append((split, value, stderr, n))
        return found

    def work(self) -> list[WorkRow]:
        """Return the trials that workers hold now, or held when they were last heard of."""
        if not self._ready():
            return []
        chosen = (
            select(Study.name, Trial.number, Trial.label, Lease.worker, Lease.taken, Lease.expires)
            .join(Trial, Lease.trial_id == Trial.id)
            .join(Study, Trial.study_id == Study.id)
            .order_by(Lease.expires.desc())
        )
        with self._read() as connection:
            return [WorkRow(*row) for row in connection.execute(chosen)]
