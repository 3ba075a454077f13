"""How far searches are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from autotc.search.spec import SearchSpec
from autotc.store import JobRow, Store

TRIALS = SearchSpec.model_fields["trials"].default


@dataclass(frozen=True)
class Status:
    """A job with the state of its study.

    Args:
        id, state, study, reason, submitted_by, created, started, finished: of the job.
        model: as asked for.
        trials, total: finished trials of its study, and wanted ones.
        in_hand: trials that were entered and are not finished.
    """

    id: int
    state: str
    model: str
    study: str | None
    trials: int
    total: int
    in_hand: int
    reason: str | None
    submitted_by: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; times as ISO 8601 in UTC."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in vars(self).items()}


def status(store: Store, job: JobRow) -> Status:
    """Return how far a job is."""
    study = None if job.study is None else store.study(job.study)
    return _status(job, {} if study is None else study.counts)


def statuses(store: Store, limit: int | None) -> list[Status]:
    """Return how far jobs are in the order they were submitted; with `limit` the latest ones."""
    jobs = store.jobs(limit=limit)
    counts = {study.name: study.counts for study in store.studies()} if jobs else {}
    return [_status(job, counts.get(job.study or "", {})) for job in jobs]


def _status(job: JobRow, counts: dict[str, int]) -> Status:
    return Status(
        id=job.id,
        state=job.state,
        model=job.spec["model"],
        study=job.study,
        trials=sum(n for state, n in counts.items() if state != "running"),
        total=job.spec.get("trials", TRIALS),
        in_hand=counts.get("running", 0),
        reason=job.reason,
        submitted_by=job.submitted_by,
        created=job.created,
        started=job.started,
        finished=job.finished,
    )
