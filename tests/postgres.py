"""A private PostgreSQL server for tests: the system's programs, a free port, a folder that is thrown away.

It runs as an unprivileged user, listens on the loopback address only, asks for a password, and ends with the process
that started it, however that one ends. Where there is no PostgreSQL, tests that want one are skipped; with CI or
AUTOTC_REQUIRE_POSTGRES set they fail.
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

START_S = 60
HINT = "`make postgres` installs it from the system's packages; AUTOTC_POSTGRES_BIN names another folder of programs"
# What a test can do without: nothing is lost by it unless the machine itself goes down.
FAST = ("-c", "fsync=off", "-c", "full_page_writes=off")

Mode = Literal["smart", "fast", "immediate"]


class Missing(Exception):
    """There is no PostgreSQL to be had here."""


def programs() -> Path:
    """Return the folder of the newest server's programs.

    Raises:
        Missing: there is none.
    """
    folders = [Path(p) for p in [os.environ.get("AUTOTC_POSTGRES_BIN")] if p]
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(versions, key=lambda p: int(p.parent.name), reverse=True)
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return folder
    raise Missing(f"no PostgreSQL server here: {HINT}")


def _unprivileged() -> dict[str, Any]:
    """Return what makes a subprocess run as an ordinary user, which PostgreSQL insists on."""
    if os.geteuid() != 0:
        return {}
    names = {user.pw_name for user in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _free_port() -> int:
    # below the ports that a system gives to outgoing connections: it is still free after the server was stopped
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Missing("no free port between 20000 and 32000")


class Server:
    """A PostgreSQL server of its own; made stopped.

    Args:
        durable: write to the disk as a real server does (fsync), which is several times slower.

    Raises:
        Missing: there is no PostgreSQL here.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._bin = programs()
        self._who = _unprivileged()
        self._options = () if durable else FAST
        self._password = secrets.token_urlsafe(16)
        self.port = _free_port()
        # not below pytest's folder, which other users cannot enter
        self.folder = Path(tempfile.mkdtemp(prefix="autotc-postgres-"))
        self.data, self.log = self.folder / "data", self.folder / "log"
        secret = self.folder / "password"
        secret.write_text(self._password)
        if self._who:
            for path in (self.folder, secret):
                os.chown(path, self._who["user"], self._who["group"])
        self._guard = self._watch()
        self._run("initdb", "-D", self.data, "-U", "autotc", "-A", "scram-sha-256", "--pwfile", secret,
                  "-E", "UTF8", "--no-locale", "--no-sync")  # fmt: skip
        secret.unlink()

    def _watch(self) -> subprocess.Popen[bytes]:
        """Start what stops the server and removes its folder once this process closes a pipe, or dies."""
        script = 'read -r _; "$1/pg_ctl" -D "$2/data" -m immediate stop; rm -rf "$2"'
        return subprocess.Popen(
            ["sh", "-c", script, "sh", self._bin, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is not for it
            **self._who,
        )

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._bin / program), *map(str, arguments)]
        # a file, not a pipe: the server keeps what it inherits open
        with (self.folder / f"{program}.out").open("w+b") as said:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                start_new_session=True,
                check=False,
                **self._who,
            )
            said.seek(0)
            text = said.read().decode(errors="replace")
        if done.returncode != 0:
            log = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
            raise RuntimeError(f"{program} ended with code {done.returncode}: {text}\n{log}")

    @property
    def running(self) -> bool:
        """Whether the server was started and not stopped."""
        return (self.data / "postmaster.pid").exists()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-p", str(self.port)]
        options += self._options
        words = " ".join(f"'{o}'" for o in options)
        self._run("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", START_S, "-o", words, "start")

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server: `immediate` is a crash, `fast` ends the sessions, `smart` waits for them."""
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", START_S, "stop")

    def restart(self, mode: Mode = "immediate") -> None:
        """Stop and start the server, on the same port."""
        self.stop(mode)
        self.start()

    def url(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql://autotc:{self._password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement outside of a transaction and return its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def create(self) -> str:
        """Make an empty database and return its name."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def drop(self, database: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def close(self) -> None:
        """Stop the server as a crash does and remove its folder."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()


def required() -> bool:
    """Return whether a machine has to have PostgreSQL."""
    return any(os.environ.get(k, "") not in ("", "0", "false") for k in ("CI", "AUTOTC_REQUIRE_POSTGRES"))


def serve(*, durable: bool = False) -> Server:
    """Return a running server; without PostgreSQL the test is skipped, or fails where it is required."""
    try:
        import psycopg  # noqa: F401

        server = Server(durable=durable)
    except (ModuleNotFoundError, Missing) as error:
        reason = f"PostgreSQL: {error}"
        if required():
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running server, one for each process of tests."""
    server = serve()
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """The address of an empty database of this test."""
    if not postgres.running:
        postgres.start()
    name = postgres.create()
    yield postgres.url(name)
    if not postgres.running:
        postgres.start()
    postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/autotc.db"
    return request.getfixturevalue("postgres_url")
