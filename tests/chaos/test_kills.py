"""Workers that are killed: at any moment, in a commit, between two steps that belong together."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from autotc.search._references import references
from autotc.search.study import LEASE_S, Study
from tests.chaos import faults
from tests.chaos.conftest import IDLE, long_form
from tests.chaos.fleet import Fleet
from tests.search.test_study import SETTING
from tests.service.conftest import SMALL

Fleets = Callable[..., Fleet]
Much = Callable[[int, int], int]


def test_workers_killed_at_random_moments(url: str, fleets: Fleets, much: Much) -> None:
    """Half of them with a trial in hand, half at any moment: starting, proposing, measuring the front."""
    rng, fleet, kills = random.Random(8), fleets(url), 0
    spec = SMALL.model_copy(update={"trials": much(30, 12)})
    while kills < much(50, 5):
        if not fleet.open():
            seed = len(fleet.specs)
            # the second kind races: trials are stopped early
            kind = {"strategy": "default", "examples": 128} if seed % 2 else {}
            fleet.submit(spec.model_copy(update={"study": f"s{seed}", "seed": seed, **kind}))
            fleet.start(max(0, 3 - len(fleet.alive)))
        victim = None
        if kills % 2:
            fleet.pause(rng.uniform(0.05, 1.2))
            victim = rng.choice(fleet.alive)
        elif (victim := fleet.until(lambda: fleet.busy() or not fleet.open(), "one has a trial")) is not True:
            fleet.pause(rng.uniform(0.0, fleet.orders.delay_s))
        if victim is not None and fleet.open():
            fleet.kill(victim)
            fleet.start()
            kills += 1
    fleet.finish()
    assert fleet.back_s


def test_workers_killed_in_a_commit(some_url: str, fleets: Fleets, much: Much) -> None:
    rng, fleet = random.Random(9), fleets(some_url)
    fleet.submit(SMALL.model_copy(update={"study": "s", "trials": much(40, 8)}))
    for i in range(much(30, 3)):
        orders = fleet.told(faults=(partial(faults.killed_in_commit, rng.randint(1, 120), i),))
        (member,) = fleet.start(orders=orders)
        fleet.until(lambda: not member.process.is_alive(), "it was killed")  # noqa: B023
        if member.process.exitcode == 0:
            break
    fleet.start(2)
    fleet.finish()
    assert fleet.counts["workers killed"]


@pytest.mark.parametrize("number", [pytest.param(1, marks=long_form), 2])
def test_a_worker_killed_while_it_tells(some_url: str, fleets: Fleets, number: int) -> None:
    fleet = fleets(some_url)
    spec = SMALL.model_copy(update={"study": "s", "max_memory_gib": 80.0})
    fleet.submit(spec)
    orders = fleet.told(faults=(partial(faults.killed_while_telling, number),))
    (member,) = fleet.start(orders=orders)
    fleet.until(lambda: not member.process.is_alive(), "it was killed")
    with closing(fleet.sampler(spec)) as sampler:
        (left,) = sampler.running()
    assert not left.constraints and left.values is None
    fleet.start()
    fleet.finish()


@long_form
def test_the_trial_of_a_killed_worker_is_back_in_work_within_two_leases(url: str, fleets: Fleets) -> None:
    """With the lease that workers have, and nothing else to do: the other worker has to notice by itself."""
    fleet, spec = fleets(url, lease_s=LEASE_S), SMALL.model_copy(update={"study": "s", "trials": 1})
    fleet.hold(after=len(references(Study(spec, fleet.store, SETTING).space)))
    fleet.submit(spec)
    fleet.start(2)
    fleet.until(lambda: any(s.counts for s in fleet.store.studies()), "the only trial was proposed")
    fleet.kill(fleet.until(fleet.busy, "one has it in hand"))
    fleet.let_go()
    fleet.finish()
    assert len(fleet.back_s) == 1
    fleet.counts[IDLE] = max(fleet.counts[IDLE], fleet.back_s[0] / LEASE_S)
    assert fleet.counts[IDLE] < 2
