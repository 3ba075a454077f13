"""Jobs and tokens in the store: what workers are asked to search for, and who may ask over HTTP."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from autotc.errors import SpecError
from autotc.registry import nearest
from autotc.store import columns, engine
from autotc.store.database import Database
from autotc.store.rows import JobRow, TokenRow
from autotc.store.schema import Job, Token

OPEN = ("queued", "running", "stopping")
ENDS = ("finished", "stopped", "failed")
_JOB = tuple(Job.__table__.c[name] for name in JobRow.__dataclass_fields__)


class Jobs(Database):
    """The queue of searches, and the bearer tokens of the HTTP service."""

    # --- jobs ---

    def add_job(self, spec: Mapping[str, Any], submitted_by: str | None = None) -> JobRow:
        """Queue a search.

        Args:
            spec: options as asked for.
            submitted_by: name of the token it came with; None from a command line.
        """
        values = {"state": "queued", "spec": columns.plain(spec, "spec"), "submitted_by": submitted_by}
        with self._write() as connection:
            made = insert(Job).values(**values, created=datetime.now(UTC)).returning(*_JOB)
            return _job(connection.execute(made).one())

    def jobs(
        self, states: Collection[str] | None = None, limit: int | None = None, study: str | None = None
    ) -> list[JobRow]:
        """Return jobs in the order they were submitted; with `limit` the latest ones."""
        if not self._ready():
            return []
        chosen = select(*_JOB).order_by(Job.id.desc()).limit(limit)
        chosen = chosen if states is None else chosen.where(Job.state.in_(states))
        chosen = chosen if study is None else chosen.where(Job.study == study)
        with self._read() as connection:
            return [_job(row) for row in reversed(connection.execute(chosen).all())]

    def job(self, job_id: int) -> JobRow | None:
        """Return one job, or None."""
        if job_id > engine.LARGEST_ID or not self._ready():
            return None
        with self._read() as connection:
            row = connection.execute(select(*_JOB).where(Job.id == job_id)).first()
            return None if row is None else _job(row)

    def start_job(self, job_id: int, study: str) -> JobRow | None:
        """Note that a worker took a job up, and under which study; the first one sets the time.

        Returns:
            The job as it is now, None when it is not open any more.
        """
        with self._write() as connection:
            now = datetime.now(UTC)
            taken = update(Job).where(Job.id == job_id, Job.state.in_(("queued", "running")))
            made = taken.values(state="running", study=study, started=func.coalesce(Job.started, now))
            row = connection.execute(made.returning(*_JOB)).first()
            return None if row is None else _job(row)

    def end_job(self, job_id: int, state: str, reason: str | None = None) -> bool:
        """End an open job; False when it has ended before, then nothing is changed."""
        assert state in ENDS
        with self._write() as connection:
            mine = update(Job).where(Job.id == job_id, Job.state.in_(OPEN))
            made = mine.values(state=state, reason=reason, finished=datetime.now(UTC))
            return connection.execute(made).rowcount == 1

    def stop_job(self, job_id: int) -> JobRow:
        """Ask for the end of a job: one that nobody took up is stopped at once, else its workers end it.

        Raises:
            SpecError: there is no such job.
        """
        if job_id > engine.LARGEST_ID:
            raise SpecError(self._no_job(job_id))
        with self._write() as connection:
            now = datetime.now(UTC)
            queued = update(Job).where(Job.id == job_id, Job.state == "queued")
            connection.execute(queued.values(state="stopped", finished=now))
            running = update(Job).where(Job.id == job_id, Job.state == "running")
            connection.execute(running.values(state="stopping"))
            row = connection.execute(select(*_JOB).where(Job.id == job_id)).first()
        if row is None:
            raise SpecError(self._no_job(job_id))
        return _job(row)

    def _no_job(self, job_id: int) -> str:
        return f"there is no job {job_id} in {self.url_shown}. See: autotc jobs"

    # --- tokens ---

    def add_token(self, name: str, digest: str, scopes: Sequence[str]) -> TokenRow:
        """Enter a token by the digest of its secret.

        Raises:
            SpecError: the name is taken.
        """
        now = datetime.now(UTC)
        with self._write() as connection:
            values = {"name": name, "digest": digest, "scopes": list(scopes), "created": now}
            made = engine.upsert(connection.dialect.name, Token.__table__).values(**values)
            if connection.execute(made.on_conflict_do_nothing(index_elements=["name"])).rowcount != 1:
                raise SpecError(f"there is a token {name!r} already; a revoked one keeps its name")
        return TokenRow(name, list(scopes), now, None)

    def tokens(self) -> list[TokenRow]:
        """Return all tokens, revoked ones included, oldest first."""
        if not self._ready():
            return []
        with self._read() as connection:
            chosen = select(Token.name, Token.scopes, Token.created, Token.revoked).order_by(Token.id)
            return [TokenRow(*row) for row in connection.execute(chosen)]

    def token(self, digest: str) -> TokenRow | None:
        """Return the token of a digest, None when there is none or it was revoked."""
        if not self._ready():
            return None
        chosen = select(Token.name, Token.scopes, Token.created, Token.revoked)
        with self._read() as connection:
            row = connection.execute(chosen.where(Token.digest == digest, Token.revoked.is_(None))).first()
            return None if row is None else TokenRow(*row)

    def revoke_token(self, name: str) -> None:
        """Make a token worthless.

        Raises:
            SpecError: there is none of that name.
        """
        with self._write() as connection:
            known = list(connection.scalars(select(Token.name)))
            mine = update(Token).where(Token.name == name, Token.revoked.is_(None))
            connection.execute(mine.values(revoked=datetime.now(UTC)))
        if name not in known:
            hint = nearest(name, known) if known else "There is none yet."
            raise SpecError(f"unknown token {name!r}. {hint} See: autotc token list")


def _job(row: Row[Any]) -> JobRow:
    return JobRow(**row._mapping)
