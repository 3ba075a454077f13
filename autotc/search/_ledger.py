"""Optuna's side of a study: asking, adopting and telling trials; its tables stay Optuna's own business.

The traps of Optuna 5 that decide how this is written (each has a test): constraints are written once, at the
very end, because a second write is ignored; a trial that could not be run is told COMPLETE with a violation,
because no sampler learns from a failed one; telling a finished trial is skipped, not an error; retries and
heartbeats are ours, because Optuna's only work inside `optimize()`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from autotc.errors import StoreError
from autotc.search import samplers
from autotc.search.objectives import OBJECTIVES

_PRESETS = "autotc:presets"
_LIVE = (TrialState.COMPLETE, TrialState.RUNNING)


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
    except optuna.exceptions.StorageInternalError as error:
        cause = error.__cause__
        raise StoreError(f"{shown}: {getattr(cause, 'orig', None) or cause or error}") from error


class Ledger:
    """The Optuna study of a search.

    Args:
        url: the database, with its password.
        shown: the database as printed.
        name: of the study.
        sampler: name of the sampler.
        seed: of the study.
        workers: processes that share it.
    """

    def __init__(self, url: str, shown: str, name: str, sampler: str, seed: int, workers: int = 1) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._shown, self._sampler, self._seed, self._workers = shown, sampler, seed, workers
        sqlite = url.startswith("sqlite")
        connect = {"connect_args": {"factory": _FastConnection, "timeout": 60}} if sqlite else {}
        with storing(shown):
            self._storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **connect})
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=[o.direction for o in OBJECTIVES],
                sampler=samplers.make(sampler, seed, workers),
                load_if_exists=True,
            )

    def close(self) -> None:
        """Close the connections."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def enqueue(self, points: list[dict[str, Any]]) -> None:
        """Put points at the head of the queue, once in the life of a study."""
        with storing(self._shown):
            if _PRESETS in self.study.user_attrs:
                return
            for params in points:
                self.study.enqueue_trial(params, skip_if_exists=True)
            self.study.set_user_attr(_PRESETS, len(points))

    def count(self) -> int:
        """Return how many trials there are, running ones included."""
        with storing(self._shown):
            return len(self.study.get_trials(deepcopy=False, states=_LIVE))

    def running(self) -> list[FrozenTrial]:
        """Return the trials that somebody asked for and nobody told yet."""
        with storing(self._shown):
            return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def ask(self, distributions: Mapping[str, BaseDistribution], total: int) -> Trial | None:
        """Return a new trial with all its parameters, None when there are `total` already."""
        with storing(self._shown):
            trials = self.study.get_trials(deepcopy=False)
            if sum(t.state in _LIVE for t in trials) >= total:
                return None
            self._seed_for(len(trials) - sum(t.state == TrialState.WAITING for t in trials))
            trial = self.study.ask(fixed_distributions=dict(distributions))
            if self._workers > 1:  # two workers may both have seen one place left
                ahead = self.study.get_trials(deepcopy=False, states=_LIVE)
                if sum(t.number < trial.number for t in ahead) >= total:
                    self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
                    return None
            return trial

    def adopt(self, frozen: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> Trial:
        """Take up a trial that another process asked for; parameters it had not drawn yet are drawn now."""
        with storing(self._shown):
            self._seed_for(frozen.number)
            trial = Trial(self.study, frozen._trial_id)
            for name, distribution in distributions.items():
                trial._suggest(name, distribution)
            return trial

    def handle(self, frozen: FrozenTrial) -> Trial:
        """Return a running trial as one that can be told."""
        with storing(self._shown):
            return Trial(self.study, frozen._trial_id)

    def tell(self, trial: Trial, values: tuple[float, ...], violations: Mapping[str, float]) -> None:
        """Finish a trial; one that is finished already stays as it is."""
        with storing(self._shown):
            if self._storage.get_trial(trial._trial_id).state.is_finished():
                return
            there = trial.constraints
            for name, violation in violations.items():
                if name not in there:
                    trial.set_constraint(name, violation)
            self.study.tell(trial, values, skip_if_finished=True)

    def _seed_for(self, number: int) -> None:
        salt = 0 if self._workers == 1 else os.getpid()
        seed = samplers.trial_seed(self._seed, number) ^ salt
        self.study.sampler = samplers.make(self._sampler, seed, self._workers)


def age_s(trial: FrozenTrial) -> float:
    """Return the seconds since a trial was asked for."""
    if trial.datetime_start is None:
        return 0.0
    start = trial.datetime_start
    now = datetime.now() if start.tzinfo is None else datetime.now(UTC)
    return (now - start).total_seconds()
