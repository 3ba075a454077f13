"""Optuna's side of a study: asking, adopting and telling trials; its tables stay Optuna's own business.

The traps of Optuna 5 that decide how this is written (each has a test): constraints are written once, at the
very end, because a second write is ignored; a trial that could not be run is told COMPLETE with a violation,
because no sampler learns from a failed one; telling a finished trial is skipped, not an error; retries and
heartbeats are ours, because Optuna's only work inside `optimize()`; and a trial is drawn in memory and written
whole (`_history.py`), because Optuna writes each parameter in a transaction of its own.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from autotc.errors import StoreAway, StoreError
from autotc.metrics import OBJECTIVES, Metric
from autotc.search import samplers
from autotc.search._history import LIVE, History
from autotc.search._inverse import allowed
from autotc.store.engine import KEEPALIVE, away

_PRESETS = "autotc:presets"
TRIES = 5


class _FastConnection(sqlite3.Connection):
    """Waits for the disk at checkpoints only; with WAL a crash of the program loses nothing committed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL")


@contextmanager
def storing(shown: str) -> Iterator[None]:
    """Turn Optuna's storage errors into ours."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        kind = StoreAway if away(cause) else StoreError
        raise kind(f"{shown}: {getattr(cause, 'orig', None) or cause or error}") from error


class _Storage(RDBStorage):
    """Optuna's storage, that leaves no connection behind when it could not be opened."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        try:
            super().__init__(url, engine_kwargs=options)
        except BaseException:
            if hasattr(self, "scoped_session"):
                self.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        self.remove_session()
        self.engine.dispose()


def _storage(url: str, options: dict[str, Any]) -> _Storage:
    """Open Optuna's storage, which makes its tables without asking whether another process does so at the moment."""
    for _ in range(TRIES):
        try:
            return _Storage(url, options)
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError):
            time.sleep(0.2)
    return _Storage(url, options)


class Ledger:
    """The Optuna study of a search.

    Args:
        url: the database, with its password.
        shown: the database as printed.
        name: of the study.
        sampler: name of the sampler.
        seed: of the study.
        workers: processes that share it.
        objectives: of the search.
    """

    def __init__(
        self,
        url: str,
        shown: str,
        name: str,
        sampler: str,
        seed: int,
        workers: int = 1,
        objectives: Sequence[Metric] = OBJECTIVES,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._shown, self._sampler, self._seed, self._workers = shown, sampler, seed, workers
        sqlite = url.startswith("sqlite")
        connect = {"factory": _FastConnection, "timeout": 60} if sqlite else KEEPALIVE
        with storing(shown):
            self._storage = _storage(url, {"pool_pre_ping": True, "connect_args": dict(connect)})
            try:
                self.study = optuna.create_study(
                    storage=self._storage,
                    study_name=name,
                    directions=[o.direction for o in objectives],
                    sampler=samplers.make(sampler, seed, workers),
                    load_if_exists=True,
                )
                self._memory = optuna.create_study(directions=self.study.directions)
            except BaseException:
                self.close()
                raise
        self._history = History(self._storage.engine, self.study._study_id)
        self._copied = 0  # trials, by number, that are in memory
        self._open: dict[int, int | None] = {}  # of those that were running then, their ids in memory
        self._space = IntersectionSearchSpace(include_pruned=True)
        self._points: list[dict[str, Any]] = []

    def close(self) -> None:
        """Close the connections."""
        self._storage.close()

    def start_from(self, points: list[dict[str, Any]]) -> None:
        """Set the points that are asked for before any other, once in the life of a study."""
        with storing(self._shown):
            if _PRESETS not in self.study.user_attrs:
                self.study.set_user_attr(_PRESETS, points)
            self._points = self.study.user_attrs[_PRESETS]

    @property
    def starts(self) -> int:
        """How many points are asked for before any other."""
        with storing(self._shown):
            return len(self.study.user_attrs.get(_PRESETS, ()))

    def trials(self) -> list[FrozenTrial]:
        """Return all trials by number; neither the list nor they are to be changed."""
        with storing(self._shown):
            return self._history.read()

    def count(self) -> int:
        """Return how many trials there are, running ones included."""
        self.trials()
        return self._history.live

    def running(self) -> list[FrozenTrial]:
        """Return the trials that somebody asked for and nobody told yet."""
        self.trials()
        return self._history.running()

    def ask(
        self,
        distributions: Mapping[str, BaseDistribution],
        total: int,
        given: Callable[[int], dict[str, Any]] | None = None,
        choose: Callable[[list[FrozenTrial], dict[str, Any] | None], FrozenTrial | None] | None = None,
    ) -> FrozenTrial | None:
        """Return a new trial with all its parameters, None when there are `total` already.

        Args:
            given: parameters that are set for the trial of a number; the sampler draws the others.
            choose: makes the trial in the sampler's place, of those so far and the point to start from, if any is
                left; None when it has nothing more to try.
        """
        with storing(self._shown):
            trials = self._history.read()
            if self._history.live >= total:
                return None
            # those of another limit may lie outside of this one's budgets
            inside = (p for p in self._points if all(allowed(distributions[k], v) for k, v in p.items()))
            start = next((p for p in inside if not any(_is_at(t, p) for t in trials)), None)
            if choose is not None:
                chosen = choose(trials, start)
                if chosen is None:
                    return None
            else:
                fixed = start or (given(len(trials)) if given is not None else {})
                chosen = self._draw(trials, distributions, fixed)
            return self._history.add(chosen, total)

    def drop(self, trial: FrozenTrial, total: int) -> bool:
        """Give up a running trial when there are `total` before it; return whether there are."""
        with storing(self._shown):
            ahead = self._history.read()[: trial.number]
            if sum(t.state in LIVE for t in ahead) < total:
                return False
            self._history.finish(trial, TrialState.FAIL)
            return True

    def _draw(
        self,
        trials: list[FrozenTrial],
        distributions: Mapping[str, BaseDistribution],
        fixed: dict[str, Any],
    ) -> FrozenTrial:
        """Draw a trial in memory, so that it reaches the database whole and in one transaction."""
        self._copy(trials)
        memory = self._memory
        salt = 0 if self._workers == 1 else os.getpid()
        seed = samplers.trial_seed(self._seed, len(trials)) ^ salt
        memory.sampler = samplers.make(self._sampler, seed, self._workers, self._space)
        if fixed:
            memory.enqueue_trial(fixed)
        drawn = memory.ask(fixed_distributions=dict(distributions))
        attributes = dict(memory._storage.get_trial(drawn._trial_id).system_attrs)
        attributes.pop("fixed_params", None)
        memory.tell(drawn, state=TrialState.FAIL)  # the told trial is copied in its place
        return optuna.create_trial(
            state=TrialState.RUNNING,
            params=drawn.params,
            distributions=dict(distributions),
            system_attrs=attributes,
        )

    def _copy(self, trials: list[FrozenTrial]) -> None:
        """Bring the study in memory up to date with the trials, which are in the order of their numbers, from 0.

        What other workers run is there as running, and counts as poor, until it is told.
        """
        memory, study = self._memory._storage, self._memory._study_id
        for number, mine in list(self._open.items()):
            there = trials[number]
            if there.state == TrialState.RUNNING:
                continue
            del self._open[number]
            if mine is None:
                if there.state == TrialState.COMPLETE:
                    memory.create_new_trial(study, there)
                continue
            for key, value in there.system_attrs.items():
                memory.set_trial_system_attr(mine, key, value)
            memory.set_trial_state_values(mine, there.state, there.values)
        for there in trials[self._copied :]:
            if there.state == TrialState.COMPLETE:
                memory.create_new_trial(study, there)
            elif there.state == TrialState.RUNNING:
                liar = self._workers > 1
                self._open[there.number] = memory.create_new_trial(study, there) if liar else None
        self._copied = len(trials)

    def tell(self, trial: FrozenTrial, values: Sequence[float], violations: Mapping[str, float]) -> None:
        """Finish a trial; one that is finished already, or is so in this moment by another worker, stays as it is.

        Optuna's samplers take no NaN: a trial with one is failed.
        """
        with storing(self._shown):
            if any(math.isnan(value) for value in values):
                self._history.finish(trial, TrialState.FAIL)
            else:
                self._history.finish(trial, TrialState.COMPLETE, values, violations)


def _is_at(trial: FrozenTrial, point: Mapping[str, Any]) -> bool:
    return all(trial.params.get(name) == value for name, value in point.items())


def age_s(trial: FrozenTrial) -> float:
    """Return the seconds since a trial was asked for."""
    if trial.datetime_start is None:
        return 0.0
    start = trial.datetime_start
    now = datetime.now() if start.tzinfo is None else datetime.now(UTC)
    return (now - start).total_seconds()
