"""A database that crashes, is away for a while, or stops answering in the middle of it all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.conftest import long_form
from tests.chaos.fleet import Fleet
from tests.chaos.stall import Network
from tests.postgres import Server
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


@long_form
def test_a_database_that_is_away_for_a_while(
    durable: Server, crashing: str, fleets: Fleets, much: Much
) -> None:
    """With four workers, all of them with work in hand; the same four finish it."""
    fleet = fleets(crashing, delay_s=0.3, lease_s=20.0)
    fleet.submit(SMALL.model_copy(update={"study": "s", "trials": much(24, 6)}))
    workers = fleet.start(4)
    fleet.until(fleet.all_at_work, "all have begun")
    fleet.until(fleet.busy, "one has a trial")
    durable.stop("immediate")
    away_s = much(30, 3)
    fleet.pause(away_s)
    assert fleet.alive == workers
    durable.start()
    fleet.counts["databases crashed"] += 1
    fleet.counts["seconds without a database"] += away_s
    fleet.finish()
    assert {m.process.exitcode for m in workers} == {0} and len(fleet.members) == 4
    assert fleet.counts["evaluations repeated"] == 0


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
            begin = time.monotonic()
            fleet.pause(2.5 * fleet.orders.lease_s)
            fleet.counts["seconds of a stalled network"] += round(time.monotonic() - begin)
            network.flow() if end == "flow" else network.hang_up()
            if not fleet.open():
                break
        fleet.finish()
