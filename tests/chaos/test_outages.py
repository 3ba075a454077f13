"""A database that crashes, is away for a while, or stops answering in the middle of it all."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from autotc.search._references import references
from autotc.search.study import Study
from tests.chaos.command import Command
from tests.chaos.conftest import LIVED, long_form
from tests.chaos.fleet import Fleet, evaluated
from tests.chaos.stall import Network
from tests.postgres import Server
from tests.search.test_study import SETTING
from tests.service.conftest import SMALL

Fleets = Callable[..., Fleet]
Much = Callable[[int, int], int]


@pytest.fixture
def crashing(durable: Server) -> Iterator[str]:
    """The address of an empty database on a server that waits for its disk."""
    name = durable.create()
    yield durable.url(name)
    if not durable.running:
        durable.start()
    durable.drop(name)


def test_a_database_that_crashes_during_and_between_trials(
    durable: Server, crashing: str, fleets: Fleets, much: Much
) -> None:
    rng, fleet = random.Random(5), fleets(crashing, lease_s=8.0)
    for i in range(much(4, 1)):
        fleet.submit(SMALL.model_copy(update={"study": f"s{i}", "seed": i, "trials": much(20, 6)}))
    workers = fleet.start(3)
    fleet.until(fleet.all_at_work, "all have begun")
    crashes = 0
    while fleet.open() and crashes < much(12, 2):
        if crashes % 2:
            fleet.until(lambda: fleet.busy() or not fleet.open(), "one has a trial")
        fleet.pause(rng.uniform(0.0, 2.0))
        durable.restart("immediate")
        fleet.counts["databases crashed"] += 1
        crashes += 1
    fleet.finish()
    assert len(fleet.members) == len(workers) and crashes >= 2


def outage(server: Server, fleet: Fleet, seconds: float, unharmed: Callable[[], bool]) -> None:
    """Let a server be away; what is in hand when it goes comes to its end meanwhile."""
    server.stop("immediate")
    fleet.let_go()
    fleet.pause(seconds)
    assert unharmed(), fleet.said()
    server.start()
    fleet.counts["databases away"] += 1
    fleet.counts["seconds without a database"] += seconds


@long_form
def test_a_database_that_is_away_for_a_while(
    durable: Server, crashing: str, fleets: Fleets, much: Much
) -> None:
    """With four workers, all of them with work in hand, which ends meanwhile; the same four finish the search."""
    fleet = fleets(crashing, lease_s=20.0)
    fleet.hold()
    fleet.submit(SMALL.model_copy(update={"study": "s", "trials": much(24, 6)}))
    workers = fleet.start(4)
    fleet.until(lambda: len(fleet.leases()) == 4, "each has a trial")
    outage(durable, fleet, much(30, 3), lambda: fleet.alive == workers)
    fleet.finish()
    assert {m.process.exitcode for m in workers} == {0} and len(fleet.members) == 4
    fleet.counts[LIVED] += 4
    assert fleet.counts["evaluations repeated"] == 0


@long_form
def test_a_search_of_four_processes_whose_database_is_away_for_a_while(
    durable: Server, crashing: str, fleets: Fleets, much: Much
) -> None:
    """`autotc search --workers 4` waits, says so once, and the same four processes finish it."""
    fleet = fleets(crashing)
    spec = SMALL.model_copy(update={"study": "s", "trials": 24, "workers": 4})
    fleet.specs.append(spec)
    fleet.hold(after=len(references(Study(spec, fleet.store, SETTING).space)))
    with Command(fleet, spec) as search:
        fleet.until(lambda: len(fleet.leases()) == 4 or search.ended, "each has a trial")
        assert not search.ended, search.said()
        processes = search.children()
        outage(durable, fleet, much(30, 3), lambda: not search.ended and search.children() == processes)
        assert search.exit_code(fleet) == 0, search.said()
    assert search.said().count("the database is away; waiting for it, Ctrl-C") == 1
    assert search.said().count("the database is back after") == 1
    fleet.finish()
    fleet.counts[LIVED] += 4
    assert fleet.counts["evaluations repeated"] == 0


@long_form
def test_a_search_that_is_interrupted_while_its_database_is_away_goes_on_later(
    durable: Server, crashing: str, fleets: Fleets
) -> None:
    fleet, spec = fleets(crashing), SMALL.model_copy(update={"study": "s"})
    fleet.specs.append(spec)
    fleet.hold(after=5)
    with Command(fleet, spec) as search:
        fleet.until(lambda: len(evaluated(fleet.folder)) == 5 or search.ended, "it has begun")
        assert not search.ended, search.said()
        durable.stop("immediate")
        fleet.let_go()
        fleet.until(lambda: "the database is away" in search.said(), "it waits")
        search.process.send_signal(signal.SIGINT)
        assert search.exit_code(fleet) == 130
        assert search.said().endswith("What was stored before is kept: the same command goes on.\n")
    durable.start()
    fleet.counts["databases away"] += 1
    with Command(fleet, spec) as again:
        assert again.exit_code(fleet) == 0, again.said()
    fleet.finish()


@pytest.mark.parametrize("end", ["flow", pytest.param("hang up", marks=long_form)])
def test_a_network_that_stalls(durable: Server, crashing: str, fleets: Fleets, much: Much, end: str) -> None:
    with Network(durable.port) as network:
        fleet = fleets(crashing, lease_s=2.0)
        fleet.submit(SMALL.model_copy(update={"study": "s", "trials": much(20, 5)}))
        stalled = crashing.replace(f":{durable.port}/", f":{network.port}/")
        fleet.start(1, url=stalled)
        fleet.start(1)
        for _ in range(much(3, 1)):
            fleet.until(lambda: fleet.busy() or not fleet.open(), "one has a trial")
            network.stall()
            fleet.counts["networks stalled"] += 1
            begin = time.monotonic()
            fleet.pause(2.5 * fleet.orders.lease_s)
            fleet.counts["seconds of a stalled network"] += round(time.monotonic() - begin)
            network.flow() if end == "flow" else network.hang_up()
            if not fleet.open():
                break
        fleet.finish()
