"""A disk that is full, and has room again."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import long_form
from tests.chaos.fleet import Fleet
from tests.service.conftest import SMALL

Fleets = Callable[..., Fleet]
Much = Callable[[int, int], int]
WAIT = "the database is away; waiting"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, with room for several logs that SQLite keeps; only an administrator can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "autotc-test", str(place)], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"no disk of the test's own: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def waiting(fleet: Fleet) -> bool:
    """Whether every worker has said that it waits for the database."""
    return all(WAIT in (fleet.folder / f"{m.name}.log").read_text() for m in fleet.alive)


@long_form
def test_workers_wait_while_the_disk_is_full(disk: Path, fleets: Fleets, much: Much) -> None:
    fleet = fleets(f"sqlite:///{disk}/chaos.db")
    fleet.submit(SMALL.model_copy(update={"study": "s", "trials": much(20, 6)}))
    workers = fleet.start(2)
    fleet.until(fleet.busy, "one has a trial")
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    fleet.until(lambda: waiting(fleet), "both wait")
    fleet.pause(much(10, 1))
    assert fleet.alive == workers
    ballast.unlink()
    fleet.counts["disks filled"] += 1
    fleet.finish()
    assert len(fleet.members) == 2 and fleet.counts["evaluations repeated"] == 0


def test_workers_wait_while_their_files_may_not_grow(tmp_path: Path, fleets: Fleets, much: Much) -> None:
    """As with a quota: the system has another word for it."""
    fleet = fleets(f"sqlite:///{tmp_path}/chaos.db")
    fleet.submit(SMALL.model_copy(update={"study": "s", "trials": much(20, 6)}))
    workers = fleet.start(2)
    fleet.until(fleet.busy, "one has a trial")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for worker in workers:
        assert worker.process.pid is not None
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (65536, limits[1]))
    fleet.until(lambda: waiting(fleet), "both wait")
    fleet.pause(much(10, 1))
    assert fleet.alive == workers
    for worker in workers:
        assert worker.process.pid is not None
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, limits)
    fleet.counts["disks filled"] += 1
    fleet.finish()
    assert len(fleet.members) == 2 and os.path.getsize(tmp_path / "chaos.db") > 65536
