"""A study's trials in Optuna's tables: read once, in bulk, and written whole, each in a few statements.

Optuna's storage reads and writes the same rows one object at a time: some 100 statements and 15 transactions a trial,
and minutes to read 100,000 of them. What is here and what Optuna does are held together by tests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Select, insert, select, union_all, update

from autotc.store.engine import upsert

STUDIES, TRIALS = models.StudyModel.__table__, models.TrialModel.__table__
PARAMS, VALUES = models.TrialParamModel.__table__, models.TrialValueModel.__table__
USER, SYSTEM = models.TrialUserAttributeModel.__table__, models.TrialSystemAttributeModel.__table__
CONSTRAINT = (
    "constraints:"  # what Optuna puts before the names of constraints, which are attributes of a trial
)
LIVE = (TrialState.COMPLETE, TrialState.RUNNING)
PORTION = 500  # trials read at a time: a server sorts their parameters in its memory

_Which = Callable[[Any], Any]  # a condition on the column of ids
_Attributes = dict[int, dict[str, Any]]  # of each trial, by its id in the database


class History:
    """The trials of a study, as far as they were read.

    What is finished never changes, so a look reads what is new and what was running; a number is given, and a trial
    entered, while the study's row is locked, so that ids are seen in their order.

    Args:
        engine: of Optuna's storage.
        study: its id there.

    Attributes:
        trials: by number; not to be changed.
        live: how many of them are complete or running.
    """

    def __init__(self, engine: Engine, study: int) -> None:
        self._engine, self._study = engine, study
        self.trials: list[FrozenTrial] = []
        self.live = 0
        self._newest = 0  # of the ids that were read
        self._open: dict[int, int] = {}  # number of each trial that was not finished when it was read, by id
        self._distributions: dict[str, BaseDistribution] = {}
        # those of the trial that was read last, mostly also the next one's
        self._shared: dict[str, BaseDistribution] = {}

    def read(self) -> list[FrozenTrial]:
        """Read what has changed and return all trials, by number."""
        with self._engine.connect() as connection:
            self._read(connection)
        return self.trials

    def running(self) -> list[FrozenTrial]:
        """Return those that somebody asked for and nobody finished, as of the last look."""
        return [self.trials[number] for number in self._open.values()]

    def add(self, trial: FrozenTrial, total: int) -> FrozenTrial | None:
        """Enter a running trial with its parameters and attributes; None where `total` are live already."""
        started = datetime.now(UTC)
        params = {k: trial.distributions[k].to_internal_repr(v) for k, v in trial.params.items()}
        words = {k: distribution_to_json(d) for k, d in trial.distributions.items()}
        user, system = _dumped(trial.user_attrs), _dumped(trial.system_attrs)
        with self._writing() as connection:
            connection.execute(
                select(STUDIES.c.study_id).where(STUDIES.c.study_id == self._study).with_for_update()
            )
            self._read(connection)
            if self.live >= total:
                return None
            number = len(self.trials)
            entered = insert(TRIALS).values(
                number=number,
                study_id=self._study,
                state=TrialState.RUNNING,
                datetime_start=started.replace(tzinfo=None),
            )
            trial_id = int(connection.execute(entered.returning(TRIALS.c.trial_id)).scalar_one())
            rows = [
                {"trial_id": trial_id, "param_name": k, "param_value": v, "distribution_json": words[k]}
                for k, v in params.items()
            ]
            _insert(connection, PARAMS, rows)
            _insert(connection, USER, _attributes(trial_id, user))
            _insert(connection, SYSTEM, _attributes(trial_id, system))
        distributions = {k: self._distribution(w) for k, w in words.items()}
        made = _frozen(
            trial_id,
            number,
            TrialState.RUNNING,
            started.replace(tzinfo=None),
            None,
            {k: distributions[k].to_external_repr(v) for k, v in params.items()},
            distributions,
            _loaded(user),
            _loaded(system),
        )
        self._put(made)
        return made

    def finish(
        self,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] = (),
        constraints: Mapping[str, float] | None = None,
    ) -> bool:
        """Finish a running trial; False where it was finished before, and then nothing is written.

        Args:
            constraints: violations by name; one that is stored already stays.
        """
        trial_id = trial._trial_id
        over = {
            f"{CONSTRAINT}{name}": json.dumps(float(violation))
            for name, violation in (constraints or {}).items()
        }
        rows = []
        for place, value in enumerate(values):
            stored, kind = models.TrialValueModel.value_to_stored_repr(float(value))
            rows.append({"trial_id": trial_id, "objective": place, "value": stored, "value_type": kind})
        now = datetime.now(UTC).replace(tzinfo=None)
        ended = update(TRIALS).where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.RUNNING)
        with self._writing() as connection:
            if connection.execute(ended.values(state=state, datetime_complete=now)).rowcount == 0:
                return False
            _insert(connection, SYSTEM, _attributes(trial_id, over), key=("trial_id", "key"))
            _insert(connection, VALUES, rows)
        return True

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            if (
                connection.dialect.name == "sqlite"
            ):  # where Python's driver starts a transaction at the first write
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    # --- reading ---

    def _read(self, connection: Connection) -> None:
        columns = [
            TRIALS.c[k] for k in ("trial_id", "number", "state", "datetime_start", "datetime_complete")
        ]
        mine = select(*columns).where(TRIALS.c.study_id == self._study)
        # two selects, because SQLite answers an OR by looking at all trials
        changed = (
            mine.where(TRIALS.c.trial_id > self._newest),
            mine.where(TRIALS.c.trial_id.in_(list(self._open))),
        )
        rows = connection.execute(union_all(*changed).order_by("trial_id")).all()
        new = [row for row in rows if row.trial_id > self._newest]
        ended = [row for row in rows if row.trial_id in self._open and row.state.is_finished()]
        found: list[FrozenTrial] = []
        if ended:
            ids = [row.trial_id for row in ended]
            values = self._values(connection, lambda id_: id_.in_(ids))
            system = self._attributes(connection, SYSTEM, lambda id_: id_.in_(ids))
            for row in ended:
                now = copy(self.trials[row.number])
                now.state, now.datetime_complete = row.state, _local(row.datetime_complete)
                now.values = values.get(row.trial_id)
                now.system_attrs = system.get(row.trial_id, {})
                found.append(now)
        for i in range(0, len(new), PORTION):
            found += self._new(connection, new[i : i + PORTION])
        for trial in found:
            self._put(trial)

    def _new(self, connection: Connection, rows: Sequence[Any]) -> list[FrozenTrial]:

        def mine(id_: Any) -> Any:
            return id_.between(rows[0].trial_id, rows[-1].trial_id)

        params, distributions = self._params(connection, mine)
        values = self._values(connection, mine)
        user = self._attributes(connection, USER, mine)
        system = self._attributes(connection, SYSTEM, mine)
        made = []
        for row in rows:
            trial = _frozen(
                row.trial_id,
                row.number,
                row.state,
                row.datetime_start,
                row.datetime_complete,
                params.get(row.trial_id, {}),
                distributions.get(row.trial_id, {}),
                user.get(row.trial_id, {}),
                system.get(row.trial_id, {}),
            )
            if row.state.is_finished():
                trial.values = values.get(row.trial_id)
            made.append(trial)
        return made

    def _put(self, trial: FrozenTrial) -> None:
        """Keep a trial that is new, or in the place of what it was."""
        if trial.number < len(self.trials):
            self.live -= self.trials[trial.number].state in LIVE
            self.trials[trial.number] = trial
        else:
            self.trials.append(trial)
        self.live += trial.state in LIVE
        self._newest = max(self._newest, trial._trial_id)
        if trial.state.is_finished():
            self._open.pop(trial._trial_id, None)
        else:
            self._open[trial._trial_id] = trial.number

    def _of(self, table: Any, which: _Which, *columns: Any) -> Select[Any]:
        # the ids are chosen in both tables: of one where they are not PostgreSQL reads every row to join them
        chosen = select(table.c.trial_id, *columns).join(TRIALS, table.c.trial_id == TRIALS.c.trial_id)
        ids = (which(table.c.trial_id), which(TRIALS.c.trial_id))
        return chosen.where(TRIALS.c.study_id == self._study, *ids)

    def _params(
        self, connection: Connection, which: _Which
    ) -> tuple[_Attributes, dict[int, dict[str, BaseDistribution]]]:
        params: _Attributes = {}
        found: dict[int, dict[str, BaseDistribution]] = {}
        chosen = self._of(
            PARAMS, which, PARAMS.c.param_name, PARAMS.c.param_value, PARAMS.c.distribution_json
        )
        for trial_id, name, value, words in connection.execute(chosen.order_by(PARAMS.c.param_id)):
            if trial_id not in params:
                params[trial_id], found[trial_id] = {}, {}
            distribution = self._distribution(words)
            name = sys.intern(name)
            params[trial_id][name] = distribution.to_external_repr(value)
            found[trial_id][name] = distribution
        for trial_id, own in found.items():
            if own != self._shared:
                self._shared = own
            found[trial_id] = self._shared
        return params, found

    def _distribution(self, words: str) -> BaseDistribution:
        if words not in self._distributions:
            self._distributions[words] = json_to_distribution(words)
        return self._distributions[words]

    def _values(self, connection: Connection, which: _Which) -> dict[int, list[float]]:
        values: dict[int, list[float]] = {}
        chosen = self._of(VALUES, which, VALUES.c.value, VALUES.c.value_type).order_by(VALUES.c.objective)
        for trial_id, value, kind in connection.execute(chosen):
            values.setdefault(trial_id, []).append(models.TrialValueModel.stored_repr_to_value(value, kind))
        return values

    def _attributes(self, connection: Connection, table: Any, which: _Which) -> _Attributes:
        found: _Attributes = {}
        for trial_id, key, words in connection.execute(
            self._of(table, which, table.c.key, table.c.value_json)
        ):
            found.setdefault(trial_id, {})[sys.intern(key)] = json.loads(words)
        return found


def _frozen(
    trial_id: int,
    number: int,
    state: TrialState,
    start: datetime | None,
    complete: datetime | None,
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    user: dict[str, Any],
    system: dict[str, Any],
) -> FrozenTrial:
    return FrozenTrial(
        number=number,
        state=state,
        value=None,
        datetime_start=_local(start),
        datetime_complete=_local(complete),
        params=params,
        distributions=distributions,
        user_attrs=user,
        system_attrs=system,
        intermediate_values={},
        trial_id=trial_id,
    )


def _local(stored: datetime | None) -> datetime | None:
    """Return a moment as Optuna's trials have it: local time without a zone."""
    return None if stored is None else stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _dumped(attributes: Mapping[str, Any]) -> dict[str, str]:
    return {k: json.dumps(v) for k, v in attributes.items()}


def _loaded(words: Mapping[str, str]) -> dict[str, Any]:
    return {k: json.loads(w) for k, w in words.items()}


def _attributes(trial_id: int, words: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"trial_id": trial_id, "key": k, "value_json": w} for k, w in words.items()]


def _insert(connection: Connection, table: Any, rows: list[dict[str, Any]], key: Sequence[str] = ()) -> None:
    """Insert rows; with a key those that are there stay."""
    if rows:
        made = upsert(connection.dialect.name, table)
        connection.execute(made.on_conflict_do_nothing(index_elements=list(key)) if key else made, rows)
