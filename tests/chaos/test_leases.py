"""Workers that stand still and wake up again, reapers that meet, clocks that are wrong."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from autotc.service.worker import Reaper
from autotc.store import Store
from tests.chaos import faults
from tests.chaos.conftest import long_form
from tests.chaos.fleet import Fleet
from tests.postgres import Server
from tests.service.conftest import SMALL
from tests.store.builders import policy, start

Fleets = Callable[..., Fleet]
Much = Callable[[int, int], int]


def test_a_worker_that_stands_still_past_its_lease_and_wakes(
    some_url: str, fleets: Fleets, much: Much
) -> None:
    """Another worker takes its trial up and is done, or in the middle of it, when the first one goes on."""
    rng, fleet = random.Random(3), fleets(some_url, delay_s=much(600, 200) / 1000, lease_s=2.0)
    for i in range(much(6, 1)):
        fleet.submit(SMALL.model_copy(update={"study": f"s{i}", "seed": i, "trials": much(12, 5)}))
        fleet.start(2)
        asleep = fleet.freeze()
        trials = fleet.in_hand(asleep)
        assert trials
        fleet.until(lambda: fleet.taken_over(trials), "another one has its trial")  # noqa: B023
        fleet.pause(rng.uniform(0.0, fleet.orders.delay_s))
        fleet.wake(asleep)
        fleet.until(lambda: not fleet.open(), "the search was over")
    fleet.finish()


def test_two_reapers_at_once_share_the_dead(url: str, fleets: Fleets, much: Much) -> None:
    fleet, n, workers = fleets(url), much(200, 40), 4
    start(fleet.store)
    trials = [fleet.store.add_trial("s", i, policy(0.9 - i / 1000)) for i in range(n)]
    stores = [Store(url) for _ in range(workers)]
    found: list[int] = []
    together = threading.Barrier(workers)

    def reap(store: Store) -> None:
        store.exists()
        together.wait()
        while len(found) < n:
            # each is found once, or this would never end
            found.extend(lease.trial_id for lease in store.reap(20.0))

    for trial in trials:
        assert fleet.store.lease(trial, "dead", -1.0)
    threads = [threading.Thread(target=reap, args=(store,), daemon=True) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == trials and not fleet.store.reap(20.0)
    for store in stores:
        store.close()
    fleet.counts["leases that reapers met at"] += n


def set_while_workers_run(fleet: Fleet, clock: Callable[[int], object], hours: int) -> None:
    """Set the clock by which leases run; a worker that dies after that is noticed as soon as ever."""
    clock(0)
    fleet.submit(SMALL.model_copy(update={"study": "s", "trials": 6}))
    fleet.start(2)
    victim = fleet.freeze()  # it renews nothing any more: its lease is from before
    trials = fleet.in_hand(victim)
    assert trials
    clock(3600 * hours)
    fleet.kill(victim)
    fleet.start()
    fleet.until(lambda: fleet.taken_over(trials), "another one has its trial")
    fleet.finish()
    fleet.counts["clocks set"] += 1


@pytest.mark.parametrize("hours", [-1, pytest.param(1, marks=long_form)])
def test_a_clock_that_is_set_while_workers_run(tmp_path: Path, fleets: Fleets, hours: int) -> None:
    """On one machine all clocks jump together."""
    clock = tmp_path / "clock"
    fleet = fleets(f"sqlite:///{tmp_path}/chaos.db", lease_s=3.0, faults=(partial(faults.own_clock, clock),))
    set_while_workers_run(fleet, lambda seconds: clock.write_text(str(seconds)), hours)


@long_form
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_server_whose_clock_is_set_while_workers_run(
    postgres: Server, postgres_url: str, fleets: Fleets, hours: int
) -> None:
    """PostgreSQL's clock is that of all workers; here it is one function, which a database may have of its own."""
    database = postgres_url.rsplit("/", 1)[1]
    postgres.execute("CREATE SCHEMA clock", database)
    postgres.execute(f"ALTER DATABASE {database} SET search_path = public, clock, pg_catalog")

    def ahead(seconds: int) -> None:
        postgres.execute(
            "CREATE OR REPLACE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ "
            f"SELECT pg_catalog.clock_timestamp() + interval '{seconds} seconds' $$",
            database,
        )
        wrong = "SELECT extract(epoch FROM clock_timestamp() - pg_catalog.clock_timestamp())"
        assert round(postgres.execute(wrong, database)[0][0]) == seconds

    set_while_workers_run(fleets(postgres_url, lease_s=3.0), ahead, hours)


@long_form
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_worker_with_a_wrong_clock_among_others(
    postgres_url: str, tmp_path: Path, fleets: Fleets, hours: int
) -> None:
    """On several machines clocks differ; nobody is taken for dead by that, and the dead are."""
    clock = tmp_path / "clock"
    clock.write_text(str(3600 * hours))
    fleet = fleets(postgres_url, lease_s=20.0)
    fleet.submit(SMALL.model_copy(update={"study": "s", "trials": 8}))
    fleet.start(1, fleet.told(faults=(partial(faults.own_clock, clock),)))
    fleet.start(1)
    fleet.finish()
    assert not any("is gone" in file.read_text() for file in tmp_path.glob("*.log"))
    assert fleet.counts["evaluations repeated"] == 0
    fleet.counts["clocks set"] += 1


def test_a_lease_from_before_the_clock_was_set_back_ends_in_time(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    start(store)
    trial = store.add_trial("s", 0, policy())
    assert store.lease(trial, "dead", 3600.0)  # as if it were taken an hour ahead
    gone = threading.Event()
    with Reaper(store, 0.2, lambda lease: gone.set()):
        assert gone.wait(20)
    assert store.lease(trial, "next", 1.0)
    store.close()
