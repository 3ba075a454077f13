"""The server that tests run on: private, whole after a crash, gone with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests import postgres as module
from tests.postgres import Server

ROOT = Path(__file__).parents[1]


def test_a_committed_row_outlives_a_crash_and_an_open_transaction_does_not(
    postgres: Server, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE seen (n int)")
        connection.execute("INSERT INTO seen VALUES (1)")
        open_one = psycopg.connect(postgres_url)
        open_one.execute("INSERT INTO seen VALUES (2)")
        postgres.restart("immediate")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        open_one.close()
    with psycopg.connect(postgres_url) as again:
        assert again.execute("SELECT n FROM seen").fetchall() == [(1,)]


def test_a_stopped_server_refuses_and_its_port_stays_free(postgres: Server, postgres_url: str) -> None:
    postgres.stop("immediate")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(postgres_url)
    postgres.start()
    psycopg.connect(postgres_url).close()


def test_nobody_gets_in_without_the_password(postgres: Server, postgres_url: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres_url.replace(postgres._password, "wrong"))
    assert postgres.execute("SHOW listen_addresses") == [("127.0.0.1",)]
    owner = postgres.data.stat().st_uid
    assert owner != 0 and (os.geteuid() == 0 or owner == os.geteuid())
    assert postgres.folder.stat().st_mode & 0o077 == 0


OWNER = """
from tests.postgres import serve
import os, signal
server = serve()
print(server.folder, (server.data / "postmaster.pid").read_text().split()[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_ends_with_its_owner_even_if_that_is_killed(postgres: Server) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    owner = subprocess.run(
        [sys.executable, "-c", OWNER], env=environment, capture_output=True, text=True, check=False
    )
    assert owner.returncode == -signal.SIGKILL, owner.stderr
    folder, pid = owner.stdout.split()
    end = time.monotonic() + 30
    while time.monotonic() < end and (Path(folder).exists() or Path(f"/proc/{pid}").exists()):
        time.sleep(0.05)
    assert not Path(folder).exists() and not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("variable", "value", "outcome"),
    [
        ("CI", "true", pytest.fail.Exception),
        ("AUTOTC_REQUIRE_POSTGRES", "1", pytest.fail.Exception),
        ("CI", "", pytest.skip.Exception),
        ("CI", "0", pytest.skip.Exception),
    ],
)
def test_without_postgresql_a_test_is_skipped_and_fails_where_it_is_required(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, outcome: type[BaseException]
) -> None:
    for name in ("CI", "AUTOTC_REQUIRE_POSTGRES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)

    def missing() -> Path:
        raise module.Missing("no PostgreSQL server here")

    monkeypatch.setattr(module, "programs", missing)
    with pytest.raises(outcome, match="no PostgreSQL server here"):
        module.serve()
