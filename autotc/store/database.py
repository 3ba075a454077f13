"""The database behind the store: its address, its schema, and one transaction at a time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from autotc.errors import SpecError, StoreAway, StoreError
from autotc.registry import nearest
from autotc.store import engine, revision
from autotc.store.schema import Study, Trial


class Database:
    """A database that may hold autotc's tables; made when something is first written to it.

    Args:
        url: sqlite:///FILE.db or postgresql://...; without it AUTOTC_STORAGE, or `autotc.db` in this folder.
        check: look at once whether an existing database can be used, instead of at the first read or write.
        read_only: let the database itself refuse every write.

    Raises:
        StoreError: not an address, another program's database, an older or newer schema, no access.
    """

    def __init__(self, url: str | None = None, *, check: bool = True, read_only: bool = False) -> None:
        self._url = engine.parse_url(url)
        self.engine: Engine = engine.make_engine(self._url, read_only)
        self._writer = self.engine.execution_options(autotc_write=True)
        self._reader = engine.snapshots(self.engine)
        self._current = False
        # waits: when each ended, by a clock that only goes forward, and its seconds
        self._waits: list[tuple[float, float]] = []
        self._waits_lock = threading.Lock()
        self._in_hand: list[int] = []  # ids of trials that this process works on
        if check:
            self._ready()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url_shown!r})"

    @property
    def url(self) -> str:
        """The address with its password, for Optuna; never print it."""
        return self._url.render_as_string(hide_password=False)

    @property
    def url_shown(self) -> str:
        """The address without any password."""
        return engine.shown(self._url)

    def close(self) -> None:
        """Close all connections; the store opens new ones when it is used again."""
        self.engine.dispose()

    # --- schema ---

    def exists(self) -> bool:
        """Return whether the database holds autotc's tables; never makes a file."""
        return self._ready()

    def refuses(self) -> bool:
        """Return whether a server answers and does not let this user in: a wrong name or password, most likely."""
        return engine.refuses(self.engine)

    def upgrade(self) -> tuple[str | None, str]:
        """Create the tables, or bring an older schema up to date, in one transaction.

        Returns:
            The revision before (None: there was none) and now.

        Raises:
            StoreError: another program's database, a newer schema, no access, a full disk.
        """
        with engine.explained(self._url):
            with self.engine.connect() as connection:
                # before anything is written, the journal mode included
                revision.refuse(revision.read_revision(connection), self.url_shown)
            engine.prepare_for_writing(self.engine)
            with self._writer.begin() as connection:
                engine.lock_schema(connection)
                found = revision.read_revision(connection)
                revision.refuse(found, self.url_shown)
                if found.state != "current":
                    revision.migrate(connection)
        self._current = True
        return found.id, revision.head()

    def check(self) -> dict[str, Any]:
        """Look at the schema and the integrity of an existing database.

        Returns:
            {"url", "revision", "studies", "trials"}.

        Raises:
            StoreError: there is none, it cannot be used, or it is damaged.
        """
        self._current = False
        if not self._ready():
            raise StoreError(f"{self.url_shown}: there is no autotc database. Make one: autotc db upgrade")
        with self._read() as connection:
            wrong = engine.integrity(connection)
            if wrong:
                raise StoreError(
                    f"{self.url_shown}: the database is damaged: {'; '.join(wrong[:3])}. Restore a copy, "
                    "or save what is left with: sqlite3 FILE '.recover'"
                )
            counts = [connection.scalar(select(func.count()).select_from(t)) for t in (Study, Trial)]
        return {"url": self.url_shown, "revision": revision.head(), "studies": counts[0], "trials": counts[1]}

    def _ready(self) -> bool:
        if not self._current:
            file = engine.sqlite_file(self._url)
            if file is not None and not file.exists():
                return False
            with self._explained(), self.engine.connect() as connection:
                self._current = revision.usable(revision.read_revision(connection), self.url_shown)
        return self._current

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with engine.explained(self._url):
                yield
        except StoreAway:
            self.note_away()
            raise

    def note_away(self, seconds: float = math.inf) -> None:
        """Note that the database has not answered for some seconds until now, or that it does not answer now.

        A process that came later than planned by so much notes that too: others may have been held up as well.
        """
        with self._waits_lock:
            # an earlier wait that was no longer than this one says nothing more: few remain
            self._waits = [w for w in self._waits if w[1] > seconds] + [(time.monotonic(), seconds)]

    def _was_away(self, seconds: float) -> bool:
        """Whether there was a wait of more than a quarter of the last seconds: others could not renew either."""
        now = time.monotonic()
        return any(now - at < seconds and waited > seconds / 4 for at, waited in self._waits)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.note_away(time.monotonic() - begin)

    def _clock(self, connection: Connection) -> datetime:
        """Return the time by which leases run; a look at it that takes long counts as an outage."""
        with self._timed():
            return engine.clock(connection)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._explained(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        if not self._ready():
            self.upgrade()
        with self._timed(), self._explained(), ExitStack() as transaction:
            with self._timed():  # until it is its turn
                connection = transaction.enter_context(self._writer.begin())
            yield connection

    def _study_id(self, connection: Connection, name: str) -> int:
        found = connection.scalar(select(Study.id).where(Study.name == name))
        if found is None:
            raise SpecError(self._unknown_study(name, list(connection.scalars(select(Study.name)))))
        return found

    def _unknown_study(self, name: str, known: list[str]) -> str:
        hint = nearest(name, known) if known else "It holds no study yet."
        return f"unknown study {name!r} in {self.url_shown}. {hint} See: autotc list studies"
