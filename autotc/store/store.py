"""The store: every query of autotc, and nothing else that talks SQL.

Each method is one transaction. A finished trial, with its figures, costs, outcomes and trace, is written
whole or not at all, once; what is added later may be added again with the same result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from autotc.errors import SpecError, StoreError
from autotc.policy import Number, Policy
from autotc.store import columns, engine, read, write
from autotc.store.calibrations import Calibrations
from autotc.store.jobs import Jobs
from autotc.store.leases import Leases
from autotc.store.rows import FrontRow, LookRow, StudyRow, TrialRow, split_policy
from autotc.store.schema import (
    Cost,
    Front,
    FrontMember,
    Lease,
    Look,
    PolicyDocument,
    Study,
    Trace,
    Trial,
)

ROLES = ("trial", "reference")
FINISHED = ("complete", "infeasible", "failed", "screened")


def _now() -> datetime:
    return datetime.now(UTC)


class Store(Calibrations, Jobs, Leases):
    """The database of studies.

    Args:
        url: sqlite:///FILE.db or postgresql://...; without it AUTOTC_STORAGE, or `autotc.db` in this folder.
        check: look at once whether an existing database can be used, instead of at the first read or write.

    Raises:
        StoreError: not an address, another program's database, an older or newer schema, no access.
    """

    # --- studies ---

    def create_study(
        self,
        name: str,
        fingerprint: str,
        spec: Mapping[str, Any],
        model: Mapping[str, Any],
        evaluated_on: str,
    ) -> StudyRow:
        """Create a study, or take up the one of that name; its `spec` is then the latest one asked for.

        Raises:
            SpecError: the name belongs to a study with another fingerprint; the message names the difference.
        """
        wanted = {"spec": columns.plain(spec, "spec"), "model": columns.plain(model, "model")}
        with self._write() as connection:
            values = {
                "name": name,
                "fingerprint": fingerprint,
                "state": "running",
                "evaluated_on": evaluated_on,
            }
            made = engine.upsert(connection.dialect.name, Study).values(**values, **wanted, created=_now())
            connection.execute(made.on_conflict_do_nothing(index_elements=["name"]))
            there = connection.execute(select(Study.fingerprint, Study.spec).where(Study.name == name)).one()
            if there.fingerprint != fingerprint:
                differing = _difference(there.spec, wanted["spec"]) or ["the data, the model or the space"]
                raise SpecError(
                    f"study {name!r} in {self.url_shown} was started with other settings: "
                    f"{'; '.join(differing)}. Use the same settings, or another --study name"
                )
            connection.execute(update(Study).where(Study.name == name).values(spec=wanted["spec"]))
            write.count_change(connection, self._study_id(connection, name))
            return read.studies(connection, name)[0]

    def study(self, name: str) -> StudyRow | None:
        """Return the study of that name, or None."""
        return next(iter(self._studies(name)), None)

    def studies(self) -> list[StudyRow]:
        """Return all studies, oldest first."""
        return self._studies(None)

    def _studies(self, name: str | None) -> list[StudyRow]:
        if not self._ready():
            return []
        with self._read() as connection:
            return read.studies(connection, name)

    def set_study_state(self, name: str, state: str, was: str | None = None) -> bool:
        """Record where a study stands: running, finished, interrupted, ...; with `was` only if it stands there now.

        Returns:
            Whether it was recorded.
        """
        with self._write() as connection:
            study_id = self._study_id(connection, name)
            where = [Study.id == study_id] + ([] if was is None else [Study.state == was])
            recorded = connection.execute(update(Study).where(*where).values(state=state)).rowcount == 1
            if recorded:
                write.count_change(connection, study_id)
            return recorded

    def add_environment(self, study: str, environment: Mapping[str, Any]) -> int:
        """Record what trials of a study are about to be run with; what is there already keeps its id."""
        wanted = columns.plain(environment, "environment")
        with self._write() as connection:
            return write.environment(connection, self._study_id(connection, study), wanted, _now())

    # --- trials ---

    def add_trial(
        self,
        study: str,
        number: int | None,
        policy: Policy,
        role: str = "trial",
        label: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> int:
        """Enter a trial as running and return its id; the same trial entered again keeps its id.

        A trial is known by its number, a reference by its label (or number) and policy: under another budget
        the preset of a label is another reference.

        Raises:
            StoreError: the number is taken by another policy.
        """
        if role not in ROLES or (number is None and (role == "trial" or label is None)):
            raise StoreError(
                f"trial: role {role!r}, number {number}, label {label!r}: a 'trial' needs a number, "
                "a 'reference' a label or a number"
            )
        key = str(number) if role == "trial" else f"{label if label is not None else number}:{policy.id[:16]}"
        document, header = split_policy(policy)
        values = {
            "role": role,
            "key": key,
            "number": number,
            "label": label,
            "policy_id": policy.id,
            "header": columns.plain(header, "policy"),
            "params": None if params is None else columns.plain(params, "params"),
            "state": "running",
            "violations": {},
            "created": _now(),
        }
        with self._write() as connection:
            study_id = self._study_id(connection, study)
            shared = engine.upsert(connection.dialect.name, PolicyDocument).values(
                id=policy.id, json=document
            )
            connection.execute(shared.on_conflict_do_nothing(index_elements=["id"]))
            made = engine.upsert(connection.dialect.name, Trial).values(study_id=study_id, **values)
            made = made.on_conflict_do_nothing(index_elements=["study_id", "role", "key"])
            new = connection.execute(made.returning(Trial.id)).scalar_one_or_none()
            if new is not None:
                write.count_change(connection, study_id, new, written=True)
                return int(new)
            where = (Trial.study_id == study_id, Trial.role == role, Trial.key == key)
            there = connection.execute(select(Trial.id, Trial.policy_id).where(*where)).one()
        if there.policy_id != policy.id:
            raise StoreError(f"study {study!r}: trial {number} is already stored with another policy")
        return int(there.id)

    def finish_trial(
        self,
        trial_id: int,
        state: str = "complete",
        numbers: Iterable[Number] = (),
        costs: Mapping[str, Any] | None = None,
        violations: Mapping[str, float] | None = None,
        reason: str | None = None,
        outcomes: Mapping[str, Any] | None = None,
        trace: Sequence[Mapping[str, Any]] = (),
        seconds: float | None = None,
        environment: int | None = None,
    ) -> bool:
        """Write all of a trial in one transaction and give its lease back.

        Args:
            outcomes: by split, columns as `columns.to_rows` takes them.
            trace: {stage, asked, kept} for each stage, in tokens an image.
            environment: what it was run with, from `add_environment`.

        Returns:
            False when the trial was finished before: then nothing is written.
        """
        if state not in FINISHED:
            raise StoreError(f"trial state {state!r}: a trial ends {', '.join(FINISHED)}")
        finished = {
            "state": state,
            "violations": columns.plain(violations or {}, "violations"),
            "reason": reason,
            "seconds": seconds,
            "environment_id": environment,
            "finished": _now(),
        }
        rows = {split: columns.to_rows(part) for split, part in (outcomes or {}).items()}
        cost = columns.plain(costs or {}, "costs")
        with self._write() as connection:
            mine = update(Trial).where(Trial.id == trial_id, Trial.state == "running").values(**finished)
            study_id = connection.execute(mine.returning(Trial.study_id)).scalar_one_or_none()
            if study_id is None:
                self._study_of(connection, trial_id)
                return False
            write.numbers(connection, trial_id, numbers)
            write.put(connection, Cost, ("trial_id",), [{"trial_id": trial_id, "json": cost}])
            for split, part in rows.items():
                write.outcomes(connection, trial_id, study_id, split, part)
            stages = [{"trial_id": trial_id, **{k: t[k] for k in ("stage", "asked", "kept")}} for t in trace]
            write.put(connection, Trace, ("trial_id", "stage"), stages)
            connection.execute(delete(Lease).where(Lease.trial_id == trial_id))
            write.count_change(connection, study_id, trial_id, written=True)
        return True

    def add_numbers(self, trial_id: int, numbers: Iterable[Number]) -> None:
        """Add figures to a trial; one of the same name, split, kind and model replaces the former."""
        with self._write() as connection:
            study_id = self._study_of(connection, trial_id)
            write.numbers(connection, trial_id, numbers)
            write.count_change(connection, study_id, trial_id)

    def add_outcomes(self, trial_id: int, split: str, outcomes: Any) -> None:
        """Add outcomes to a trial; a column given for an example replaces the former, None leaves it."""
        rows = columns.to_rows(outcomes)
        with self._write() as connection:
            study_id = self._study_of(connection, trial_id)
            write.outcomes(connection, trial_id, study_id, split, rows)
            write.count_change(connection, study_id, trial_id)

    def trials(
        self,
        study: str,
        role: str | None = None,
        state: str | None = None,
        numbers: Collection[int] | None = None,
    ) -> list[TrialRow]:
        """Return a study's trials in the order they were entered.

        Args:
            numbers: only those of these numbers.

        Raises:
            SpecError: no such study.
        """
        if not self._ready():
            raise SpecError(self._unknown_study(study, []))
        with self._read() as connection:
            where = [Trial.study_id == self._study_id(connection, study)]
            where += [Trial.role == role] if role is not None else []
            where += [Trial.state == state] if state is not None else []
            if numbers is not None:  # found by the index on what makes a trial unique
                where += [Trial.role == "trial", Trial.key.in_([str(n) for n in numbers])]
            return read.trials(connection, where)

    def changes(self, study: str) -> int | None:
        """Return how often what is shown of a study has changed, None where there is no such study."""
        if not self._ready():
            return None
        with self._read() as connection:
            return connection.scalar(select(Study.changes).where(Study.name == study))

    def changed(self, study: str, since: int = -1) -> tuple[int, list[TrialRow]]:
        """Return how often a study has changed, and the trials that did since it had changed `since` times.

        Raises:
            SpecError: no such study.
        """
        if not self._ready():
            raise SpecError(self._unknown_study(study, []))
        with self._read() as connection:
            row = connection.execute(select(Study.id, Study.changes).where(Study.name == study)).one_or_none()
            if row is None:
                raise SpecError(self._unknown_study(study, list(connection.scalars(select(Study.name)))))
            new = [Trial.study_id == row.id, Trial.changed > since]
            return row.changes, read.trials(connection, new) if row.changes > since else []

    def trial(self, trial_id: int) -> TrialRow:
        """Return one trial by its id.

        Raises:
            StoreError: no such trial.
        """
        found = []
        if trial_id <= engine.LARGEST_ID and self._ready():
            with self._read() as connection:
                found = read.trials(connection, [Trial.id == trial_id])
        if not found:
            raise StoreError(f"{self.url_shown}: there is no trial with id {trial_id}")
        return found[0]

    def outcomes(self, trial_id: int, split: str) -> columns.Columns:
        """Return a trial's outcomes on a split as arrays by column, in the same order for all trials."""
        if not self._ready():
            return columns.to_columns([])
        with self._read() as connection:
            return read.outcomes(connection, trial_id, split)

    # --- looks and fronts ---

    def look(self, study: str, split: str, why: str) -> int:
        """Record a look at a split that is not searched on; return how many there were, this one included."""
        with self._write() as connection:
            study_id = self._study_id(connection, study)
            connection.execute(insert(Look).values(study_id=study_id, split=split, why=why, created=_now()))
            seen = select(func.count()).where(Look.study_id == study_id, Look.split == split)
            return int(connection.scalar(seen) or 0)

    def looks(self, study: str, split: str | None = None) -> list[LookRow]:
        """Return the looks of a study, oldest first."""
        if not self._ready():
            return []
        with self._read() as connection:
            return read.looks(connection, self._study_id(connection, study), split)

    def publish_front(
        self, study: str, budget: Mapping[str, Any] | float | None, members: Sequence[int]
    ) -> int:
        """Publish a front: the trials' ids in order, with their figures as they are now. It never changes.

        Publishing what the study's latest front already says returns that one.

        Args:
            budget: the limits the front was chosen under; a number is `max_tflops`.
        """
        if not isinstance(budget, Mapping):
            budget = {} if budget is None else {"max_tflops": float(budget)}
        limits = columns.plain(budget, "budget")
        with self._write() as connection:
            study_id = self._study_id(connection, study)
            # of two that publish at once, one waits here and then finds the other's
            connection.execute(select(Study.id).where(Study.id == study_id).with_for_update())
            there = {
                t.id: t for t in read.trials(connection, [Trial.study_id == study_id, Trial.id.in_(members)])
            }
            missing = [m for m in members if m not in there]
            if missing or len(there) < len(members):
                raise StoreError(
                    f"study {study!r}: front members {list(members)}: not its own, or twice: {missing}"
                )
            rows = [
                {
                    "rank": rank,
                    "trial_id": m,
                    "numbers": [n.model_dump(mode="json", exclude_none=True) for n in there[m].numbers],
                    "costs": there[m].costs,
                }
                for rank, m in enumerate(members)
            ]
            latest = read.latest_front(connection, study_id)
            if latest is not None and latest[1:] == (limits, rows):
                return latest[0]
            made = insert(Front).values(study_id=study_id, budget=limits, created=_now()).returning(Front.id)
            front_id = int(connection.execute(made).scalar_one())
            if rows:
                connection.execute(insert(FrontMember), [{"front_id": front_id, **row} for row in rows])
            write.count_change(connection, study_id)
            return front_id

    def fronts(self, study: str) -> list[FrontRow]:
        """Return the published fronts of a study, oldest first."""
        if not self._ready():
            return []
        with self._read() as connection:
            return read.fronts(connection, self._study_id(connection, study))


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    keys = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
    return [f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in keys]
