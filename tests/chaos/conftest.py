"""How much chaos there is, where it happens, and what has happened when it is over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.fleet import LONGEST, Fleet, Orders
from tests.postgres import Server, serve

FULL = os.environ.get("AUTOTC_CHAOS", "") == "full"
TOTALS: Counter[str] = Counter()
IDLE = "the same with no other activity, lease periods (bar: 2)"
LIVED = "workers that lived through an outage with a trial in hand"
OUTAGES = ("databases crashed", "databases away", "networks stalled", "disks filled")
ROWS = (
    "workers killed",
    "workers frozen",
    "clocks set",
    "evaluation processes ended",
    "evaluations out of memory",
    *OUTAGES,
    "seconds without a database",
    "seconds of a stalled network",
    LIVED,
    "leases that reapers met at",
    "studies",
    "trials",
    "trials lost",
    "trials duplicated",
    "evaluations",
    "evaluations repeated",
    "invariants checked",
    LONGEST,
    IDLE,
)
long_form = pytest.mark.skipif(not FULL, reason="in the long form: make chaos")


@pytest.fixture
def much() -> Callable[[int, int], int]:
    """The first of two sizes in `make chaos`, the second one among the other tests."""
    return lambda full, short: full if FULL else short


@pytest.fixture(scope="session")
def durable() -> Iterator[Server]:
    """A PostgreSQL server that waits for its disk, as a real one does."""
    server = serve(durable=True)
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    return address(request, tmp_path)


def address(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the address of an empty database of the kind that a fixture asks for."""
    if request.param == "sqlite":
        return f"sqlite:///{folder}/chaos.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=long_form)])
def some_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, on PostgreSQL in the long form only."""
    return address(request, tmp_path)


@pytest.fixture
def fleets(tmp_path: Path, record_property: Callable[[str, object], None]) -> Iterator[Callable[..., Fleet]]:
    """Makes fleets on a database; they end with the test, and what they counted is added up."""
    counts: Counter[str] = Counter()
    made: list[Fleet] = []

    def make(url: str, **orders: Any) -> Fleet:
        made.append(Fleet(url, tmp_path, counts, Orders(**orders)))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()
    record_property("chaos", dict(counts))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what a test counted, in whichever process it ran."""
    if report.when == "teardown":
        for name, counts in report.user_properties:
            if name == "chaos":
                for what, n in counts.items():  # type: ignore[attr-defined]
                    TOTALS[what] = max(TOTALS[what], n) if what in (LONGEST, IDLE) else TOTALS[what] + n


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was done, and that it was survived."""
    if TOTALS:
        terminalreporter.section("chaos, the long form" if FULL else "chaos, the short form")
        assert TOTALS.keys() <= set(ROWS), sorted(TOTALS)
        width = max(map(len, ROWS))
        for name in ROWS:
            shown = f"{TOTALS[name]:.2f}" if name in (LONGEST, IDLE) else f"{TOTALS[name]:,.0f}"
            terminalreporter.write_line(f"{name:{width}}  {shown:>7}")
        outages = sum(TOTALS[name] for name in OUTAGES)
        terminalreporter.write_line(
            f"{TOTALS['workers killed']} kills, {outages} outages, {TOTALS['workers frozen']} freezes: "
            f"{TOTALS['trials']:,} trials, {TOTALS['trials lost']} lost, {TOTALS['trials duplicated']} duplicated, "
            f"{TOTALS['evaluations repeated']} of {TOTALS['evaluations']:,} evaluations repeated; longest time until a "
            f"killed worker's trial was in work again {TOTALS[LONGEST]:.2f} lease periods"
        )
