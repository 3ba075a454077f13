"""A full disk, a folder that cannot be written, a killed process, a lock, a wrong address."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from alembic import command  # noqa: F401 - loaded before a test gives up the right to read the installation
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from autotc.errors import StoreError
from autotc.store import Store, engine
from tests.store.builders import finish, outcomes, policy, start

ROOT = Path(__file__).parents[2]
NOBODY = 65534


def check_whole(store: Store, study: str, n: int) -> list[int]:
    """Every finished trial has all its parts; return their numbers."""
    finished = store.trials(study, state="complete")
    for row in finished:
        assert {m.name for m in row.numbers} == {"quality", "worst_group"}
        assert row.costs["tflops_exact"] == 100.0 + row.number
        assert len(row.trace) == 2 and row.seconds == 1.5
        found = store.outcomes(row.id, "search")
        np.testing.assert_array_equal(found["kl"], outcomes(n, seed=row.number)["kl"])
    for row in store.trials(study, state="running"):
        assert row.numbers == [] and row.costs == {} and row.trace == []
        assert len(store.outcomes(row.id, "search")["id"]) == 0
    return [row.number for row in finished]


def limit_pages(store: Store, pages: int) -> None:
    def limit(connection, record) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}").close()

    event.listen(store.engine, "connect", limit)
    store.close()


def test_a_full_disk_keeps_what_was_stored(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/autotc.db"
    store = Store(url)
    start(store)
    limit_pages(store, 80)
    with pytest.raises(StoreError, match=r"the disk is full.*before is intact.*Free some space.*--storage"):
        for i in range(1000):
            finish(store, "s", i, n=64)
    done = check_whole(store, "s", 64)
    assert done == list(range(len(done))) and len(done) > 3
    store.check()
    store.close()
    # with space again, the same program goes on
    store = Store(url)
    finish(store, "s", len(done), n=64)
    assert check_whole(store, "s", 64) == [*done, len(done)]
    store.close()


def test_a_disk_too_full_to_begin_leaves_no_half_schema(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/autotc.db"
    store = Store(url)
    limit_pages(store, 4)
    with pytest.raises(StoreError, match="the disk is full"):
        start(store)
    assert not store.exists()
    store.close()
    store = Store(url)
    assert start(store) == "s"
    store.close()


WRITER = """
import sys
from autotc.store import Store
from tests.store.builders import finish, start
store = Store(sys.argv[1])
start(store)
for i in range(10_000):
    finish(store, "s", i, n=64)
    print(i, flush=True)
"""


def python(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    command_line = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command_line, env=environment, text=True, stdout=subprocess.PIPE, **options)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_leaves_finished_trials_whole(url: str) -> None:
    process = python(WRITER, url)
    assert process.stdout is not None
    with process:
        said = [int(process.stdout.readline()) for _ in range(25)]
        process.kill()
        said += [int(line) for line in process.stdout.read().split()]
    store = Store(url)
    done = check_whole(store, "s", 64)
    # what was said to be done is there; at most the next one was written without being said
    assert said == list(range(len(said))) and done[: len(said)] == said and len(done) <= len(said) + 1
    store.check()
    assert store.add_trial("s", 0, policy(0.9)) == store.trials("s")[0].id
    finish(store, "s", len(done), n=64)
    assert check_whole(store, "s", 64) == [*done, len(done)]
    store.close()


WORKER = """
import sys
from autotc.store import Store
from tests.store.builders import number, outcomes, policy, start
print("ready", flush=True)
sys.stdin.readline()
store = Store(sys.argv[1])
start(store)
mine = 0
for i in range(20):
    trial_id = store.add_trial("s", i, policy(0.9 - i / 1000))
    parts = {"numbers": [number()], "costs": {"worker": sys.argv[2]}, "outcomes": {"search": outcomes()}}
    mine += store.finish_trial(trial_id, "complete", **parts)
print(mine)
"""


def test_two_processes_make_one_database_and_store_each_trial_once(url: str) -> None:
    workers = [python(WORKER, url, name, stdin=subprocess.PIPE) for name in ("one", "two")]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    counts = [int(worker.communicate(timeout=240)[0]) for worker in workers]
    store = Store(url)
    rows = store.trials("s")
    assert sum(counts) == 20 and [row.number for row in rows] == list(range(20))
    assert sorted(counts) == sorted(sum(row.costs["worker"] == w for row in rows) for w in ("one", "two"))
    assert all(len(store.outcomes(row.id, "search")["id"]) == 8 for row in rows)
    store.close()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without the superuser's right to write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="autotc-test-"))
    path.chmod(0o755)
    yield path
    path.chmod(0o755)
    shutil.rmtree(path)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    folder.chmod(0o555)
    with unprivileged():
        store = Store(f"sqlite:///{folder}/autotc.db")
        with pytest.raises(
            StoreError, match=f"cannot be opened or made in {folder}.*--storage.*AUTOTC_STORAGE"
        ):
            start(store)
    store.close()


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o555, 0o777])
def test_a_database_that_cannot_be_written_can_be_read(folder: Path, mode: int) -> None:
    url = f"sqlite:///{folder}/autotc.db"
    store = Store(url)
    start(store)
    finish(store, "s", 0)
    store.close()
    assert [p.name for p in folder.iterdir()] == ["autotc.db"]
    (folder / "autotc.db").chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    folder.chmod(mode)
    with unprivileged():
        store = Store(url)
        assert check_whole(store, "s", 8) == [0]
        with pytest.raises(StoreError, match=f"folder {folder} cannot be written.*--storage.*AUTOTC_STORAGE"):
            finish(store, "s", 1)
        assert check_whole(store, "s", 8) == [0]
        store.close()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"the folder {tmp_path}/runs does not exist. Make it"):
        start(Store(f"sqlite:///{tmp_path}/runs/autotc.db"))


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("Milk, eggs, flour. " * 100)
    with pytest.raises(StoreError, match="not a SQLite database"):
        Store(f"sqlite:///{file}")
    assert file.read_text() == "Milk, eggs, flour. " * 100


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "autotc.db"
    store = Store(f"sqlite:///{file}")
    start(store)
    for i in range(8):
        finish(store, "s", i, n=64)
    store.close()
    content = bytearray(file.read_bytes())
    half = len(content) // 2
    content[half : half + 8192] = b"\xff" * 8192
    file.write_bytes(content)
    store = Store(f"sqlite:///{file}", check=False)
    with pytest.raises(StoreError, match="damaged"):
        store.check()
    store.close()


def test_rows_that_refer_to_nothing_are_found(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    start(store)
    finish(store, "s", 0)
    raw = store.engine.raw_connection()
    raw.execute("PRAGMA foreign_keys=OFF")
    raw.execute("DELETE FROM policy")
    raw.execute("PRAGMA foreign_keys=ON")
    raw.close()
    with pytest.raises(StoreError, match="table trial, row 1: refers to a missing row of policy"):
        store.check()
    store.close()


def test_a_lock_that_does_not_end_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/autotc.db"
    holder = Store(url)
    start(holder)
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0)
    store = Store(url)
    raw = holder.engine.raw_connection()
    raw.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process has kept the database locked"):
        finish(store, "s", 0)
    assert store.study("s") is not None  # readers go on
    raw.execute("ROLLBACK")
    finish(store, "s", 0)
    raw.close()
    store.close()
    holder.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "results.db",
            "'results.db' is not a database address. Allowed: sqlite:///FILE.db and postgresql://",
        ),
        ("mysql://root@host/x", "kind 'mysql' are not supported"),
    ],
)
def test_a_wrong_address_names_the_allowed_ones(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Store(url)


# the driver warns of the connection that it could not make
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "url",
    ["postgresql://me:hush%2Ffoo@127.0.0.1:1/db", "postgres://me@127.0.0.1:1/db?password=hush%2Ffoo"],
)
def test_a_password_is_never_shown(url: str) -> None:
    parsed = engine.parse_url(url)
    assert parsed.drivername == "postgresql+psycopg"
    assert "hush" not in engine.shown(parsed) and "***" in engine.shown(parsed)
    assert "127.0.0.1:1/db" in engine.shown(parsed)
    failure = OperationalError("", {}, Exception("no entry for password 'hush/foo'"))
    with pytest.raises(StoreError) as caught, engine.explained(parsed):
        raise failure
    assert "hush" not in str(caught.value) and "PostgreSQL says: no entry for password '***'" in str(
        caught.value
    )
    with pytest.raises(StoreError) as caught:
        Store(url)  # without the driver: how to install it; with it: no server there
    assert "hush" not in str(caught.value)
    with pytest.raises(StoreError) as caught:
        Store("postgresql//me:hush@host")
    assert "hush" not in str(caught.value)
