"""A database that answers late, a process that comes late: the leases of all get their time to be renewed."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from sqlalchemy import event

from autotc.search import _patience
from autotc.search._patience import held, ticks
from autotc.store import Store, database, engine
from tests.store.builders import finish, policy, start

LEASE_S = 20.0
STALL_S = 5.1  # a little more than a quarter of a lease


class Time:
    """Time that passes only when it is told to, and `time` to the modules that wait."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    for module in (database, _patience):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=time.monotonic))
    return time


def run_out(store: Store) -> int:
    """Return a trial, of another worker whose lease ran out, as its closing of the study did."""
    start(store)
    trial = store.add_trial("s", 0, policy())
    assert store.lease(trial, "other", -1.0) and store.close_study("s", "other", -1.0)
    return trial


def spared(store: Store, trial: int) -> bool:
    """Whether nothing of the other worker can be taken; True or False for all of it."""
    found = {
        not store.lease(trial, "me", LEASE_S),
        not store.close_study("s", "me", LEASE_S),
        store.reap(LEASE_S) == [] and store._was_away(LEASE_S),
    }
    assert len(found) == 1, found
    return found.pop()


@pytest.mark.parametrize("call", ["lease", "close_study", "reap"])
@pytest.mark.parametrize("where", ["begin", "clock"])
@pytest.mark.parametrize("late_s", [STALL_S, 4.9])
def test_who_waits_for_a_lock_or_the_clock_takes_nothing_in_that_transaction(
    store: Store, passing: Time, monkeypatch: pytest.MonkeyPatch, call: str, where: str, late_s: float
) -> None:
    trial = run_out(store)

    def stall(*arguments: object) -> None:
        passing.now += late_s

    if where == "begin":
        event.listen(store.engine, "begin", stall)
    else:
        real = engine.clock
        monkeypatch.setattr(engine, "clock", lambda connection: (stall(), real(connection))[1])
    took = {
        "lease": lambda: store.lease(trial, "me", LEASE_S),
        "close_study": lambda: store.close_study("s", "me", LEASE_S),
        "reap": lambda: bool(store.reap(LEASE_S)),
    }[call]()
    assert took == (late_s < STALL_S)


@pytest.mark.parametrize("late_s", [STALL_S, 60.0])
def test_a_write_that_stalls_leaves_others_one_lease_of_time(
    store: Store, passing: Time, late_s: float
) -> None:
    trial = run_out(store)

    def stall(connection: object) -> None:
        passing.now += late_s

    event.listen(store.engine, "commit", stall)
    finish(store, "s", 1)
    event.remove(store.engine, "commit", stall)
    for _ in range(300):  # what is fast afterwards changes nothing
        store.note_away(0.01)
    assert len(store._waits) < 10
    passing.now += LEASE_S - 0.1
    assert spared(store, trial)
    passing.now += 0.2
    assert not spared(store, trial)


@pytest.mark.parametrize("late_s", [STALL_S, 4.9])
@pytest.mark.parametrize("ended", [False, True])
def test_a_heartbeat_or_reaper_that_comes_late_takes_nothing(
    store: Store, passing: Time, late_s: float, ended: bool
) -> None:
    """This process stood still, and so perhaps did others; also where the heartbeat was over meanwhile."""
    trial = run_out(store)

    class Late(threading.Event):
        def wait(self, seconds: float | None = None) -> bool:
            passing.now += (seconds or 0.0) + late_s
            return ended

    coming = ticks(store, Late(), LEASE_S / 2)
    assert next(coming, "over") == ("over" if ended else None)
    assert spared(store, trial) == (late_s == STALL_S)


def test_who_works_on_a_trial_does_not_reap_it(store: Store) -> None:
    """Its lease ran out while the process stood still; it goes on, and others may take the trial."""
    trial = run_out(store)
    other = Store(store.url)
    with held(store, trial, "other", LEASE_S):
        assert store.reap(LEASE_S) == [] and store.reap() == []
        with store.in_hand(trial):  # its result is written
            assert store.reap(LEASE_S) == []
        assert store.reap(LEASE_S) == []
        assert store.renew(trial, "other", -1.0)
        assert [lease.worker for lease in other.reap(LEASE_S)] == ["other"]
    assert store.lease(trial, "other", -1.0)
    assert [lease.worker for lease in store.reap(LEASE_S)] == ["other"]
    other.close()
