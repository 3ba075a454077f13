"""Where databases differ: addresses, connections, transactions, upserts, and what their errors mean.

Everything else in the store is SQL that SQLite and PostgreSQL share.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from autotc.errors import StoreAway, StoreError

DEFAULT_URL = "sqlite:///autotc.db"
BUSY_SECONDS = 30
LARGEST_ID = 2**31 - 1  # of PostgreSQL's integers
# a peer that is gone without a word is noticed within a minute, and no transaction outlives its worker by more
KEEPALIVE = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "options": "-c idle_in_transaction_session_timeout=60s",
}
# a quota that is used up is SQLITE_IOERR_WRITE, a file of a write-ahead log that finds no room one of the others
_PASSING = (
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_FULL",
    "SQLITE_IOERR_WRITE",
    "SQLITE_IOERR_FSYNC",
    "SQLITE_IOERR_SHM",
)
_NOT_ALLOWED = "42501"  # PostgreSQL's insufficient_privilege
_SECRET_KEYS = ("password", "sslpassword")
_SCHEMA_LOCK = 0x6175746F7463  # "autotc": the advisory lock under which a schema is changed


def parse_url(url: str | None) -> URL:
    """Return the database's address: the given one, else AUTOTC_STORAGE, else `autotc.db` in this folder.

    Raises:
        StoreError: not an address, or of a database that is not supported.
    """
    given = url or os.environ.get("AUTOTC_STORAGE") or DEFAULT_URL
    allowed = "Allowed: sqlite:///FILE.db and postgresql://USER:PASSWORD@HOST/NAME."
    try:
        parsed = make_url(given)
    except (ArgumentError, ValueError) as error:
        # the text may be a malformed address with a password in it: only a plain file name is repeated
        what = f"{given!r}" if "@" not in given else "the storage given"
        raise StoreError(f"storage: {what} is not a database address. {allowed}") from error
    backend = parsed.drivername.split("+")[0]
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(f"storage: databases of kind {backend!r} are not supported. {allowed}")
    return parsed


def shown(url: URL) -> str:
    """Return the address without any password in it."""
    secret = [k for k in _SECRET_KEYS if k in url.query]
    masked = url.update_query_dict(dict.fromkeys(secret, "MASKED")).render_as_string(hide_password=True)
    return masked.replace("=MASKED", "=***")


def secrets(url: URL) -> list[str]:
    """Return the passwords of an address, to be kept out of messages."""
    found = [url.password, *(url.query.get(k) for k in _SECRET_KEYS)]
    return [s for s in found if isinstance(s, str) and s]


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite address; None for another database, memory, or a `file:` URI."""
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or name in ("", ":memory:") or name.startswith("file:"):
        return None
    return Path(name)


def make_engine(url: URL, read_only: bool = False) -> Engine:
    """Return an engine whose transactions are real, and immediate where `autotc_write` is set.

    Args:
        url: the address.
        read_only: let the database itself refuse every write.

    Raises:
        StoreError: the driver of the database is not installed.
    """
    options: dict[str, Any] = {"json_serializer": _dump_json}
    if url.get_backend_name() != "sqlite":
        options["connect_args"] = dict(KEEPALIVE)
        if read_only:
            options["connect_args"]["options"] += " -c default_transaction_read_only=on"
        try:
            # trials take minutes: a connection may be dead by the time it is needed again
            return create_engine(url, pool_pre_ping=True, pool_recycle=1800, **options)
        except ModuleNotFoundError as error:
            raise StoreError(
                f"{shown(url)}: the PostgreSQL driver is missing. Install it: pip install 'autotc[postgres]'"
            ) from error
    readable = _readable(url)
    if read_only and readable is url and (file := sqlite_file(url)) is not None:
        readable = _as_uri(url, file, mode="ro")
    engine = create_engine(readable, connect_args={"timeout": BUSY_SECONDS}, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _readable(url: URL) -> URL:
    # A database in WAL mode cannot be opened in a folder that cannot be written, unless it is declared
    # immutable; that is true when no writer's log lies beside it.
    file = sqlite_file(url)
    if file is None or not file.exists() or _writable(file.parent):
        return url
    if Path(f"{file}-wal").exists():
        return url
    return _as_uri(url, file, mode="ro", immutable="1")


def _as_uri(url: URL, file: Path, **options: str) -> URL:
    name = f"file:{quote(str(file.resolve()))}"
    return url.set(database=name).update_query_dict({**options, "uri": "true"})


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _prepare_sqlite(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    # Without this Python's driver opens transactions on its own, and not for schema changes.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that starts as a reader and then writes fails at once when another one wrote meanwhile;
    # one that starts as a writer waits its turn.
    write = connection.get_execution_options().get("autotc_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def snapshots(engine: Engine) -> Engine:
    """Return the engine for reads of several statements, which all see the database as it is at the first one.

    SQLite's transactions do anyway; PostgreSQL's by default see with every statement what others have finished.
    """
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def clock(connection: Connection) -> datetime:
    """Return the time by which leases run: of all workers of a database the same, whatever their own clocks say."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    return connection.execute(text("SELECT clock_timestamp()")).scalar_one()


def prepare_for_writing(engine: Engine) -> None:
    """Switch a SQLite file to write-ahead logging, so that readers and one writer do not block each other.

    SQLite does not wait by itself for another process that writes at this moment, perhaps to switch as well.
    """
    if engine.dialect.name != "sqlite":
        return
    raw, until = engine.raw_connection(), time.monotonic() + BUSY_SECONDS
    try:
        cursor = raw.cursor()
        while cursor.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
            try:
                cursor.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        cursor.close()
    finally:
        raw.close()


def lock_schema(connection: Connection) -> None:
    """Let one process at a time change the schema, until the transaction ends.

    On SQLite a writing transaction is already alone.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})


def upsert(dialect: str, table: Any) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT with the `on_conflict_do_...` methods, which both databases spell alike."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def count_on(connection: Connection, tables: Iterable[Any]) -> None:
    """Let PostgreSQL give ids after those that were written with an id of their own; SQLite does so anyway."""
    if connection.dialect.name == "postgresql":
        for table in (t.__tablename__ for t in tables):
            newest = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"
            connection.execute(text(newest))


def integrity(connection: Connection) -> list[str]:
    """Return what a SQLite file's own checks complain about; PostgreSQL guards itself."""
    if connection.dialect.name != "sqlite":
        return []
    found = [row[0] for row in connection.exec_driver_sql("PRAGMA quick_check") if row[0] != "ok"]
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    return found + [f"table {row[0]}, row {row[1]}: refers to a missing row of {row[2]}" for row in orphans]


def _dump_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn a driver's error into a StoreError that says what to do.

    Raises:
        StoreError: the database failed.
    """
    try:
        yield
    except DBAPIError as error:
        message = f"{shown(url)}: {_explain(error.orig, url)}"
        for secret in secrets(url):
            message = message.replace(secret, "***")
        raise (StoreAway if away(error) else StoreError)(message) from error


def away(error: BaseException | None) -> bool:
    """Return whether an error says that the database does not answer now, and may in a moment."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    code = getattr(error.orig, "sqlite_errorname", None)
    return code is None or code.startswith(_PASSING)


def refuses(engine: Engine) -> bool:
    """Return whether a PostgreSQL server takes connections, but not these: asked twice, as it may be starting.

    The driver does not say why a connection failed, only the server's words, in the server's language.
    """
    if engine.dialect.name != "postgresql":
        return False
    from psycopg.conninfo import make_conninfo
    from psycopg.pq import PGconn, Ping

    arguments, options = engine.dialect.create_connect_args(engine.url)
    options.pop("context", None)  # of the driver's types, and nothing to connect with
    address = make_conninfo(*arguments, **{**options, **KEEPALIVE}).encode()
    for _ in range(2):
        if PGconn.ping(address) != Ping.OK:
            return False
        try:
            engine.connect().close()
        except OperationalError:
            continue
        return False
    return True


def _explain(error: BaseException | None, url: URL) -> str:
    code = getattr(error, "sqlite_errorname", "")
    file = sqlite_file(url)
    folder = (file or Path()).absolute().parent
    elsewhere = "or choose another place with --storage sqlite:////FOLDER/autotc.db (or AUTOTC_STORAGE)"
    if code == "SQLITE_FULL":
        return (
            f"the disk is full (folder {folder}). What was stored before is intact, the last write was "
            f"undone. Free some space and run the same command again, {elsewhere}."
        )
    if code.startswith("SQLITE_READONLY"):
        return f"the file or its folder {folder} cannot be written. Make both writable, {elsewhere}."
    if code.startswith("SQLITE_CANTOPEN"):
        if file is not None and not folder.is_dir():
            return f"the folder {folder} does not exist. Make it (mkdir -p), {elsewhere}."
        return f"the file cannot be opened or made in {folder}. Check the permissions of both, {elsewhere}."
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return (
            f"another process has kept the database locked for more than {BUSY_SECONDS} s. Stop it, or use "
            "PostgreSQL for many workers, then run the same command again."
        )
    if code == "SQLITE_NOTADB":
        return f"the file is not a SQLite database; it was left as it is. Name another file, {elsewhere}."
    if code.startswith("SQLITE_CORRUPT"):
        return "the file is damaged. Look at it with: sqlite3 FILE '.recover', or restore a copy."
    if code.startswith("SQLITE_IOERR"):
        return f"reading or writing failed ({code}): the disk may be full or failing (folder {folder})."
    reason = " ".join(str(error).split()).rstrip(" .?")
    if file is None and url.get_backend_name() == "postgresql":
        if getattr(error, "sqlstate", None) == _NOT_ALLOWED:
            return (
                f"PostgreSQL says: {reason}. The user must be allowed to make tables in the database: ALTER DATABASE "
                f"{url.database} OWNER TO {url.username}"
            )
        return f"PostgreSQL says: {reason}. Check that it runs, the address, the user and the password."
    return f"the database refused: {reason}"
