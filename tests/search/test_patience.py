"""Waiting for a database: what is said, when it ends, and what it means for the leases of others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotc.errors import StoreAway
from autotc.search import _patience
from autotc.search._patience import Patience
from autotc.store import Store
from tests.store.builders import policy, start


def failing(times: int) -> Callable[[], str]:
    """Return work that a database which is away cannot do so many times."""
    calls = itertools.count()

    def work() -> str:
        if next(calls) < times:
            raise StoreAway("HOST: PostgreSQL says: connection refused")
        return "done"

    return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let sleeping take no time; the first element is what the clock shows."""
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(_patience, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    start(store)
    yield store
    store.close()


def test_an_outage_is_said_when_it_begins_each_minute_and_when_it_is_over(clock: list[float]) -> None:
    lines: list[str] = []
    patiently = Patience(lambda: True, lines.append)
    # pauses of 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 and then 5 s: 30 tries take about two minutes
    assert patiently(failing(30)) == "done" and not patiently.waiting
    assert [line.split(": ")[0] for line in lines] == [
        "the database is away; waiting for it, Ctrl-C or SIGTERM ends the wait",
        "the database has been away for 61 s; still waiting",
        "the database has been away for 121 s; still waiting",
        "the database is back after 126 s",
    ]
    assert all("HOST: PostgreSQL says: connection refused" in line for line in lines[:-1])
    assert patiently(failing(1)) == "done" and len(lines) == 6


def test_an_outage_is_an_error_where_nobody_waits_or_for_too_long(clock: list[float]) -> None:
    with pytest.raises(StoreAway):
        Patience()(failing(1))
    lines: list[str] = []
    patiently = Patience(lambda: True, lines.append, limit_s=10.0)
    assert patiently(failing(6)) == "done"  # 6.3 s
    began = clock[0]
    with pytest.raises(StoreAway):
        patiently(failing(100))
    assert 10.0 <= clock[0] - began < 10.0 + _patience.LONGEST_PAUSE_S
    assert len(lines) == 4 and lines[-1] == "the database has been away for 11 s; no longer waiting"


def test_an_outage_that_only_the_sampler_met_leaves_others_the_time_to_renew(store: Store) -> None:
    """Its connections are Optuna's; the store, which answered all the time, has to hear of it."""
    trial = store.add_trial("s", 0, policy())
    assert store.lease(trial, "other", -1.0) and store.close_study("s", "other", -1.0)
    Patience(lambda: True, store=store)(failing(1))
    assert not store.lease(trial, "me", 20.0) and not store.close_study("s", "me", 20.0)
    assert store.reap(20.0) == []
    again = Store(store.url)  # of a process that met no outage
    assert again.lease(trial, "me", 20.0) and again.close_study("s", "me", 20.0)
    again.close()
