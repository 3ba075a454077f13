"""How much chaos there is, where it happens, and what has happened when it is over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.fleet import Fleet, Orders
from tests.postgres import Server, serve

FULL = os.environ.get("AUTOTC_CHAOS", "") == "full"
TOTALS: Counter[str] = Counter()
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
                    TOTALS[what] = max(TOTALS[what], n) if what.startswith("longest") else TOTALS[what] + n


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was done, and that it was survived."""
    if TOTALS:
        terminalreporter.section("chaos")
        width = max(map(len, TOTALS))
        for name, count in sorted(TOTALS.items()):
            terminalreporter.write_line(f"{name:{width}}  {round(count)}")
