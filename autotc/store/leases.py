"""Leases in the store: which worker has a trial in hand, or the closing of a study."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import Connection, delete, select, update

from autotc.errors import StoreError
from autotc.store import engine, read
from autotc.store.database import Database
from autotc.store.rows import LeaseRow
from autotc.store.schema import Lease, Study, Trial


class Leases(Database):
    """Leases on running trials, by the database's clock."""

    @contextmanager
    def in_hand(self, trial_id: int) -> Iterator[None]:
        """Inside a `with` block this process works on the trial: it does not reap the lease on it."""
        self._in_hand.append(trial_id)
        try:
            yield
        finally:
            self._in_hand.remove(trial_id)

    def lease(self, trial_id: int, worker: str, seconds: float) -> bool:
        """Take a running trial for some seconds; False when it is over, or another worker's lease on it still runs.

        Until the database has answered for as long as that, no lease of another worker counts as run out: whoever is
        alive could not renew it.
        """
        with self._write() as connection:
            # who finishes it at this moment goes first
            locked = select(Trial.state).where(Trial.id == trial_id).with_for_update()
            state = connection.scalar(locked)
            if state is None:
                self._study_of(connection, trial_id)
            if state != "running":
                return False
            now = self._clock(connection)
            expires = now + timedelta(seconds=seconds)
            values = {"trial_id": trial_id, "worker": worker, "taken": now, "expires": expires}
            made = engine.upsert(connection.dialect.name, Lease).values(**values)
            free = Lease.worker == worker
            if not self._was_away(seconds):
                free |= Lease.expires <= now
            change = {k: values[k] for k in ("worker", "taken", "expires")}
            taken = made.on_conflict_do_update(index_elements=["trial_id"], set_=change, where=free)
            return connection.execute(taken.returning(Lease.trial_id)).first() is not None

    def held(self, study: str, numbers: Collection[int], worker: str) -> set[int]:
        """Return which running trials of a study, of those numbers, other workers than this one hold now."""
        if not self._ready():
            return set()
        with self._read() as connection:
            chosen = (
                select(Trial.number)
                .join(Study, Trial.study_id == Study.id)
                .join(Lease, Lease.trial_id == Trial.id)
                .where(Study.name == study, Trial.role == "trial", Trial.key.in_([str(n) for n in numbers]))
                .where(Trial.state == "running", Lease.worker != worker)
                .where(Lease.expires > self._clock(connection))
            )
            return set(connection.scalars(chosen))

    def renew(self, trial_id: int, worker: str, seconds: float) -> bool:
        """Prolong an own lease; False when it is no longer held."""
        with self._write() as connection:
            own = update(Lease).where(Lease.trial_id == trial_id, Lease.worker == worker)
            expires = self._clock(connection) + timedelta(seconds=seconds)
            return connection.execute(own.values(expires=expires)).rowcount == 1

    def release(self, trial_id: int, worker: str) -> bool:
        """Give an own lease back; False when it is no longer held."""
        with self._write() as connection:
            own = delete(Lease).where(Lease.trial_id == trial_id, Lease.worker == worker)
            return connection.execute(own).rowcount == 1

    def reap(self, longest_s: float | None = None) -> list[LeaseRow]:
        """Remove the leases that ran out and return them; of several reapers each lease reaches only one.

        What this process has in hand is left alone: its lease is late, not dead.

        Args:
            longest_s: what seems to have longer to go is from before the clock was set back, and is cut to this; who
                is alive renews it in time. Until the database has answered for this long, no lease counts as run out.
        """
        if not self._ready():
            return []
        with self._write() as connection:
            now = self._clock(connection)
            if longest_s is not None:
                until = now + timedelta(seconds=longest_s)
                connection.execute(update(Lease).where(Lease.expires > until).values(expires=until))
                closing = update(Study).where(Study.closer_until > until)
                connection.execute(closing.values(closer_until=until))
                if self._was_away(longest_s):
                    return []
            gone = delete(Lease).where(Lease.expires <= now, Lease.trial_id.not_in(list(self._in_hand)))
            rows = connection.execute(gone.returning(Lease.trial_id, Lease.worker, Lease.expires)).all()
            return read.leases(connection, rows)

    def release_all(self, worker: str) -> int:
        """Give all leases of a worker back, the closing of studies included; return how many trials there were."""
        with self._write() as connection:
            closing = update(Study).where(Study.closer == worker)
            connection.execute(closing.values(closer=None, closer_until=None))
            return connection.execute(delete(Lease).where(Lease.worker == worker)).rowcount

    def add_loss(self, trial_id: int) -> int:
        """Count an evaluation process that ended while it ran a trial; return how many did so far."""
        with self._write() as connection:
            self._study_of(connection, trial_id)
            more = update(Trial).where(Trial.id == trial_id).values(losses=Trial.losses + 1)
            return int(connection.execute(more.returning(Trial.losses)).scalar_one())

    def close_study(self, name: str, worker: str, seconds: float) -> bool:
        """Take, or keep, the closing of a study for some seconds; False while another worker has it.

        After an outage the other one gets its time, as with trials.
        """
        with self._write() as connection:
            study_id = self._study_id(connection, name)
            now = self._clock(connection)
            free = Study.closer.is_(None) | (Study.closer == worker)
            if not self._was_away(seconds):
                free |= Study.closer_until <= now
            mine = update(Study).where(Study.id == study_id, free)
            until = now + timedelta(seconds=seconds)
            return connection.execute(mine.values(closer=worker, closer_until=until)).rowcount == 1

    def _study_of(self, connection: Connection, trial_id: int) -> int:
        found = connection.scalar(select(Trial.study_id).where(Trial.id == trial_id))
        if found is None:
            raise StoreError(f"{self.url_shown}: there is no trial with id {trial_id}")
        return found
