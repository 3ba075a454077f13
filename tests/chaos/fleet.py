"""Workers in processes of their own, on fake models, and the ways to treat them badly.

They are forked from one server that has everything imported, so that a worker is there in a moment and fifty of them
can be killed in a minute. To the system and the database each is a process like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from sqlalchemy import select

from autotc._outcomes import Outcomes
from autotc.errors import AutotcError, StoreAway
from autotc.policy import Policy
from autotc.search._ledger import Ledger
from autotc.search.setting import Setting
from autotc.search.spec import SearchSpec
from autotc.search.study import open_ledger
from autotc.service import queue
from autotc.service.stopping import Stopping
from autotc.service.worker import Worker
from autotc.store import Store
from autotc.store.schema import Lease
from tests.chaos.invariants import INVARIANTS, Finished, Seen, complaints
from tests.fakes import FakeEvaluator
from tests.search.test_study import SETTING

PATIENCE_S = 900.0
LONGEST = "longest time until a killed worker's trial was in work again, lease periods"
LOOK_S = 0.5


@dataclass(frozen=True)
class Orders:
    """What a worker process is told.

    Args:
        delay_s: time an evaluation takes.
        lease_s: silence after which it counts as gone.
        faults: called in the process before it begins.
        evaluator: makes what evaluates; by default a fake model in the process itself.
    """

    delay_s: float = 0.1
    lease_s: float = 4.0
    faults: tuple[Callable[[], None], ...] = ()
    evaluator: Callable[[], Any] | None = None


@dataclass
class Noting(FakeEvaluator):
    """A fake model that writes down what it has run on the search split of a study, in the file `evaluated`.

    While it runs, a file NAME.runs is there. While a file `hold` is there, no run ends beyond the number in it.
    """

    folder: Path = Path()
    name: str = ""
    study: str | None = None

    def evaluate(self, policy: Policy | None, split: str, n: int, *, start: int = 0) -> Outcomes:
        """Return outcomes of examples start..start+n-1."""
        runs = self.folder / f"{self.name}.runs"
        runs.touch()
        found = super().evaluate(policy, split, n, start=start)
        while self._held():
            time.sleep(0.05)
        runs.unlink()
        if split == "search":
            with (self.folder / "evaluated").open("a") as file:
                file.write(f"{self.study} {'full' if policy is None else policy.id} {start}\n")
        return found

    def _held(self) -> bool:
        try:
            after = int((self.folder / "hold").read_text() or 0)
        except FileNotFoundError:
            return False
        return len(evaluated(self.folder)) >= after


def evaluated(folder: Path) -> list[str]:
    """Return what the fake models that share a folder have run on search splits."""
    file = folder / "evaluated"
    return file.read_text().splitlines() if file.exists() else []


def noting(folder: Path, delay_s: float, study: str | None, workers: int) -> Noting:
    """Make a fake model for whichever process this is."""
    return Noting(delay_s=delay_s, folder=folder, name=str(os.getpid()), study=study)


def work(url: str, name: str, folder: Path, orders: Orders) -> None:
    """Be a worker until everything is done or a signal comes."""
    log = (folder / f"{name}.log").open("a", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    for fault in orders.faults:
        fault()

    def prepare(spec: SearchSpec) -> Setting:
        note = partial(Noting, delay_s=orders.delay_s, folder=folder, name=name, study=spec.study)
        make = orders.evaluator or note
        return replace(SETTING, evaluator=lambda workers: make())

    def say(line: str) -> None:
        log.write(f"{time.monotonic():.2f} {line}\n")

    try:
        with Stopping() as stopping:
            store = Store(url, check=False)
            Worker(store, prepare, stopping, drain=True, lease_s=orders.lease_s, say=say, name=name).run()
    except AutotcError as error:
        say(f"ended by {type(error).__name__}: {error}")
        sys.exit(1)


@dataclass
class Member:
    """A worker process; `lost_at` is when it was killed."""

    name: str
    process: ForkServerProcess
    lost_at: float | None = None


@dataclass
class Fleet:
    """The workers of one test, the searches they have to finish, and what was counted.

    Args:
        url: the database.
        folder: for the workers' words.
        counts: what the suite has done so far, by name.
        orders: of every worker.
    """

    url: str
    folder: Path
    counts: dict[str, float]
    orders: Orders = Orders()
    seen: Seen = field(default_factory=Seen)
    members: list[Member] = field(default_factory=list)
    specs: list[SearchSpec] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.url)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.warm"])
        self._dropped: dict[int, tuple[str, float]] = {}
        self._looked = 0.0

    def submit(self, spec: SearchSpec) -> None:
        """Queue a search."""
        self.specs.append(spec)
        queue.submit(self.store, spec)

    def start(self, n: int = 1, orders: Orders | None = None, url: str | None = None) -> list[Member]:
        """Start workers."""
        started = []
        for _ in range(n):
            name = f"worker-{len(self.members)}"
            arguments = (url or self.url, name, self.folder, orders or self.orders)
            process = self._context.Process(target=work, args=arguments, daemon=True)
            process.start()
            started.append(Member(name, process))
            self.members += started[-1:]
        return started

    @property
    def alive(self) -> list[Member]:
        """The workers that run, or stand still."""
        return [m for m in self.members if m.lost_at is None and m.process.is_alive()]

    def kill(self, member: Member) -> None:
        """End a worker as a power cut does, and note what it had in hand."""
        member.process.kill()
        member.process.join()
        self.lost(member)

    def lost(self, member: Member) -> None:
        """Note that a worker was killed, and what it had in hand."""
        member.lost_at = time.monotonic()
        self.counts["workers killed"] += 1
        mine = [trial for trial, name in self.leases().items() if name == member.name]
        self._dropped |= dict.fromkeys(mine, (member.name, member.lost_at))

    def hold(self, after: int = 0) -> None:
        """Let no evaluation come to its end any more, once there were so many on search splits."""
        (self.folder / "hold").write_text(str(after))

    def let_go(self) -> None:
        """Let evaluations come to their ends."""
        (self.folder / "hold").unlink()

    def freeze(self) -> Member:
        """Stop a worker while its model runs; not one that holds SQLite's only lock, for which all others wait."""
        while True:
            member = self.until(self._running, "a model runs")
            os.kill(member.process.pid, signal.SIGSTOP)
            if (self.folder / f"{member.name}.runs").exists() and not self._locked():
                self.counts["workers frozen"] += 1
                return member
            self.wake(member)

    def in_hand(self, member: Member) -> dict[int, str]:
        """Return a worker's trials with its name."""
        return {trial: name for trial, name in self.leases().items() if name == member.name}

    def taken_over(self, trials: dict[int, str]) -> bool:
        """Whether others have, or have finished, all of the trials."""
        self.seen.look(self.store)
        now = self.leases()
        return all(trial in self.seen.rows or now.get(trial, name) != name for trial, name in trials.items())

    def wake(self, member: Member) -> None:
        """Let a worker that stands still go on."""
        assert member.process.pid is not None
        os.kill(member.process.pid, signal.SIGCONT)

    def all_at_work(self) -> bool:
        """Whether every worker has taken a search up."""
        logs = [self.folder / f"{m.name}.log" for m in self.members]
        return all(log.exists() and "is taken up" in log.read_text() for log in logs)

    def _running(self) -> Member | None:
        return next((m for m in self.alive if (self.folder / f"{m.name}.runs").exists()), None)

    def _locked(self) -> bool:
        if not self.url.startswith("sqlite"):
            return False
        connection = sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=1.0)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        finally:
            connection.close()
        return False

    def busy(self, names: set[str] | None = None) -> Member | None:
        """Return a worker that has a trial in hand."""
        held = self.leases().values()
        return next((m for m in self.alive if m.name in held and (names is None or m.name in names)), None)

    def watch(self) -> None:
        """Note what is finished, and which dropped trials are in work again."""
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            self.seen.look(self.store)
        if self._dropped:
            held, finished = self.leases(), self.seen.rows.keys()
            for trial, (name, at) in list(self._dropped.items()):
                if trial in finished or held.get(trial, name) != name:
                    del self._dropped[trial]
                    self.back_s.append(time.monotonic() - at)
        for member in self.members:
            if member.lost_at is None and member.process.exitcode == -signal.SIGKILL:
                self.lost(member)  # by its own hand, as it was told
            if member.lost_at is None and member.process.exitcode not in (None, 0):
                said = (self.folder / f"{member.name}.log").read_text()[-3000:]
                raise AssertionError(f"{member.name} ended with {member.process.exitcode} by itself:\n{said}")

    def told(self, **changes: Any) -> Orders:
        """Return the orders of this fleet's workers with changes."""
        return replace(self.orders, **changes)

    def sampler(self, spec: SearchSpec) -> Ledger:
        """Return the sampler's side of a study."""
        assert spec.study is not None
        return open_ledger(self.store, spec.study, spec)

    def pause(self, seconds: float) -> None:
        """Watch for some seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.watch()
            time.sleep(min(0.05, max(0.0, left)))

    def until(self, there: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """Watch until something is there, and return it."""
        end = time.monotonic() + patience_s
        while not (found := self._asked(there)):
            assert time.monotonic() < end, f"waited {patience_s:.0f} s until {what}\n{self.said()}"
            self.watch()
            time.sleep(0.05)
        return found

    def open(self) -> bool:
        """Whether a search is still to be done."""
        return bool(self.store.jobs(("queued", "running", "stopping")))

    def finish(self) -> None:
        """Wait until every search is over and every worker has gone home, and check all that must hold."""
        self.until(lambda: not self.open(), "all searches were over")
        self.until(lambda: not self.alive, "all workers had ended")
        self.seen.look(self.store)
        for spec in self.specs:
            it = Finished(self.store, spec, self.seen)
            self.counts["trials lost"] += it.lost
            self.counts["trials duplicated"] += it.duplicated
            found = complaints(it)
            assert not found, f"{found}\n{self.said()}"
            self.counts["invariants checked"] += len(INVARIANTS) + 1  # and the database's own
            self.counts["studies"] += 1
            self.counts["trials"] += len(it.rows)
        self.counts[LONGEST] = max([self.counts[LONGEST], *(s / self.orders.lease_s for s in self.back_s)])
        noted = evaluated(self.folder)
        self.counts["evaluations"] += len(noted)
        self.counts["evaluations repeated"] += len(noted) - len(set(noted))

    def said(self) -> str:
        """Return the last words of each worker."""
        logs = sorted(self.folder.glob("worker-*.log"), key=lambda f: f.stat().st_mtime)[-6:]
        return "\n".join(f"--- {f.name}\n{f.read_text()[-1200:]}" for f in logs)

    def close(self) -> None:
        """End what still runs."""
        for member in self.members:
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
        self.store.close()

    def leases(self) -> dict[int, str]:
        """Return which worker has which trial in hand; of a database that is away, none."""
        try:
            if not self.store.exists():
                return {}
            with self.store._read() as connection:
                return {
                    r.trial_id: r.worker for r in connection.execute(select(Lease.trial_id, Lease.worker))
                }
        except StoreAway:
            return {}

    @staticmethod
    def _asked(there: Callable[[], Any]) -> Any:
        try:
            return there()
        except StoreAway:
            return None
