"""A worker: takes up what is queued, shares it with the other workers, and needs nobody to look after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from autotc.errors import AutotcError, SpecError, StoreAway, StoreError
from autotc.registry import nearest
from autotc.search._patience import Patience, ticks
from autotc.search._session import Progress
from autotc.search.setting import Setting
from autotc.search.spec import SearchSpec
from autotc.search.study import LEASE_S
from autotc.search.team import TeamStudy, worker_name
from autotc.service.queue import spec_of
from autotc.service.roots import Roots
from autotc.service.stopping import HandBack, Stopping
from autotc.store import JobRow, LeaseRow, Store

IDLE_S = 1.0
LOOK_S = 1.0  # how often a worker asks whether its job was stopped

Prepare = Callable[[SearchSpec], Setting]
Say = Callable[[str], None]


class Reaper:
    """Returns dead leases inside a `with` block, from a thread: nobody has to ask for a trial first.

    Args:
        lease_s: the longest that a lease may have to go; it looks twice in that time.
        found: called with each dead lease.
    """

    def __init__(self, store: Store, lease_s: float, found: Callable[[LeaseRow], None]) -> None:
        self._store, self._lease_s, self._found = store, lease_s, found
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autotc-reaper", daemon=True)

    def __enter__(self) -> Reaper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        for _ in ticks(self._store, self._over, self._lease_s / 2):
            try:
                for lease in self._store.reap(self._lease_s):
                    self._found(lease)
            except StoreError:
                continue  # the worker itself meets the same and says it


@dataclass
class Worker:
    """One process that works on the searches of a database, one at a time.

    Args:
        store: the database.
        prepare: turns a spec into what runs on this machine.
        stopping: what catches the signals.
        study: work on this study only, until it is over.
        drain: end when nothing is open, instead of waiting for more.
        device: where models run here.
        roots: folders that searches which came over HTTP may name.
        lease_s: silence after which this worker counts as gone.
        wait_s: the longest that the database may be away, None: as long as it takes.
        say: takes lines for the log.
    """

    store: Store
    prepare: Prepare
    stopping: Stopping
    study: str | None = None
    drain: bool = False
    device: str = "auto"
    roots: Roots = field(default_factory=Roots)
    lease_s: float = LEASE_S
    wait_s: float | None = None
    say: Say = print
    name: str = field(default_factory=worker_name)

    def run(self) -> None:
        """Work until a signal; with `study` or `drain` until there is nothing left.

        Raises:
            SpecError: there is no such study, or it cannot be worked on here.
            StoreError: the database cannot be used, or was away for longer than `wait_s`.
            KeyboardInterrupt: a second signal.
        """
        self._studies: dict[int, TeamStudy] = {}
        self._not_here: set[int] = set()
        self._patiently = Patience(lambda: not self.stopping.asked, self.say, self.store, self.wait_s)
        try:
            self._patiently(self._find)
            self.say(f"worker {self.name} waits for searches in {self.store.url_shown}")
            with Reaper(self.store, self.lease_s, self._reaped):
                self._rounds()
        except HandBack:
            self.say("the trial in hand was handed back")
        except StoreAway:
            if not self.stopping.asked:
                raise
        finally:
            self._rest()
        self.say("worker ended")

    def _find(self) -> None:
        """Look for the database; a wrong password or name from the start is no reason to wait."""
        try:
            self.store.exists()
        except StoreAway as error:
            if self.store.refuses():
                raise StoreError(str(error)) from error
            raise

    def _rounds(self) -> None:
        while not self.stopping.asked:
            try:
                if self._alone():
                    return
                for job in self._open():
                    self._visit(job)
                    if self.stopping.asked:
                        return
                if not self._open() and (self.drain or self.study is not None):
                    return
                self._patiently.there()
                self._pause(IDLE_S)
            except StoreAway as error:
                self._patiently.away(error)
                self._pause(IDLE_S)

    def _open(self) -> list[JobRow]:
        jobs = self.store.jobs(("queued", "running", "stopping"))
        if self.study is not None:
            jobs = [j for j in jobs if self.study in (j.study, j.spec.get("study"))]
        return [j for j in jobs if j.id not in self._not_here]

    def _alone(self) -> bool:
        """Work on a study that no open job asks for: one that `autotc search` started; return whether that was done."""
        if self.study is None or self._open():
            return False
        row = self.store.study(self.study)
        if row is None:
            known = [s.name for s in self.store.studies()]
            hint = nearest(self.study, known) if known else "It holds none yet."
            raise SpecError(
                f"--study: no study and no queued search {self.study!r} in {self.store.url_shown}. {hint}"
            )
        spec = SearchSpec.from_document({**row.spec, "device": self.device, "study": row.name})
        study = self._team(spec, 0.0, lambda: not self.stopping.asked, lambda: False)
        try:
            self._patiently(study.work)
        finally:
            self._quietly(study.rest)
        return True

    def _visit(self, job: JobRow) -> None:
        """Work on a job as long as there is something to do in it; end it when it is over."""
        if job.state == "stopping":
            if job.study is not None and self.store.study(job.study) is not None:
                self.store.set_study_state(job.study, "interrupted")
            self._end(job, "stopped")
            return
        try:
            study = self._studies.get(job.id) or self._take(job)
            self._studies = {job.id: study}
        except StoreAway:
            raise
        except AutotcError as error:
            self._refuse(job, error)
            return
        if self.store.start_job(job.id, study.name) is None:
            return  # stopped, or ended by another worker, in this moment
        try:
            if self._patiently(study.work):  # what it holds is kept meanwhile
                self._end(job, "finished")
        except StoreAway:
            raise
        except Exception as error:  # whatever it is, the next search may still run
            self._end(job, "failed", f"{type(error).__name__}: {error}")
        finally:
            self._quietly(study.rest)

    def _take(self, job: JobRow) -> TeamStudy:
        self._rest()
        spec = spec_of(job.spec, self.device)
        if (
            job.submitted_by is not None
        ):  # again, and here: what is below a root elsewhere may not be so on this machine
            places = {"model": self.roots.model(spec.model), "data": spec.data and self.roots.data(spec.data)}
            spec = spec.model_copy(update=places)
            if spec.data is not None:
                self.roots.pictures(Path(spec.data))
        spent = 0.0
        if job.started is not None:  # perhaps by a clock that is ahead of this one
            spent = max(0.0, (datetime.now(UTC) - job.started).total_seconds())
        self.say(f"job {job.id}: {spec.model} is taken up")
        return self._team(spec, spent, _Running(self, job.id), lambda: len(self._open()) > 1)

    def _team(
        self, spec: SearchSpec, spent_s: float, alive: Callable[[], bool], leave: Callable[[], bool]
    ) -> TeamStudy:
        spec = spec.model_copy(update={"storage": self.store.url})
        setting = replace(self.prepare(spec), timeout=None)
        started = time.monotonic() - spent_s
        study = TeamStudy(
            spec,
            self.store,
            setting,
            None,
            started,
            self.lease_s,
            self.name,
            alive,
            leave,
            patiently=self._patiently,
        )
        study._session.progress = _Lines(study.name, self.say)
        return study

    def _refuse(self, job: JobRow, error: AutotcError) -> None:
        """A search that this machine cannot run fails, unless other machines run it already."""
        reason = f"{type(error).__name__}: {error}"
        if job.state == "running":
            self._not_here.add(job.id)
            self.say(f"job {job.id}: cannot be run here, and is left to others: {reason}")
        else:
            self._end(job, "failed", reason)

    def _end(self, job: JobRow, state: str, reason: str | None = None) -> None:
        self._studies.pop(job.id, None)
        if self.store.end_job(job.id, state, reason):
            self.say(f"job {job.id}: {state}{'' if reason is None else f': {reason}'}")

    def _reaped(self, lease: LeaseRow) -> None:
        self.say(f"worker {lease.worker} is gone: trial {lease.number} of {lease.study} is open again")

    def _rest(self) -> None:
        for study in self._studies.values():
            self._quietly(study.rest)
        self._studies = {}

    def _quietly(self, rest: Callable[[], None]) -> None:
        try:
            rest()
        except StoreError as error:
            self.say(f"leases could not be given back and run out by themselves: {error}")

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.stopping.asked and time.monotonic() < end:
            time.sleep(0.05)


class _Running:
    """Whether a worker may go on with a job; the database is asked now and then."""

    def __init__(self, worker: Worker, job_id: int) -> None:
        self._worker, self._job_id = worker, job_id
        self._asked, self._state = -LOOK_S, True

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._asked > LOOK_S:
            self._asked = now
            try:
                job = self._worker.store.job(self._job_id)
                self._state = job is not None and job.state == "running"
            except StoreAway:
                pass  # the next step meets the same and waits
        return self._state and not self._worker.stopping.asked


class _Lines:
    """A line for the log when a phase begins or ends, and for each finished trial."""

    def __init__(self, study: str, say: Say) -> None:
        self._study, self._say, self._last = study, say, ("", -1)

    def __call__(self, step: Progress) -> None:
        told = step.phase == "trials" or step.done == step.total or step.phase != self._last[0]
        if told and (step.phase, step.done) != self._last:
            self._last = (step.phase, step.done)
            best = "" if step.best_quality is None else f", best {100 * step.best_quality:.1f} %"
            self._say(f"{self._study}: {step.phase} {step.done}/{step.total}, front {step.front}{best}")
