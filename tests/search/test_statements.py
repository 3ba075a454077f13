"""How much a worker asks of the database for a trial: what no load on the machine changes, and every network does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from autotc.search._loop import Loop
from autotc.search.setting import Setting
from autotc.search.spec import SearchSpec
from autotc.search.study import Study, open_ledger
from autotc.store import Store
from autotc.workload import PROFILES
from tests.fakes import FULL, PROXY, accept, fake_evaluator
from tests.search.points import REDUCERS

SPEC = SearchSpec(
    model="qwen2.5-vl", max_tflops=800, trials=4, examples=32, reducers=REDUCERS, strategy="default", seed=1
)
SETTING = Setting(FULL, PROXY, "fake", PROFILES["vqa"], fake_evaluator, check=accept)
OTHERS = 3  # workers that have a trial in hand meanwhile
LEASE_S = 3600.0  # nothing happens by the clock

# statements and commits, at most; on SQLite a BEGIN is a statement as well
ASK = {"sqlite": (21, 3), "postgresql": (19, 3)}
TELL = {"sqlite": (20, 2), "postgresql": (17, 2)}
READ = 11  # statements that read a history, however long, of up to 500 trials; on PostgreSQL one less


class Counted:
    """Statements and commits of all engines."""

    def __init__(self) -> None:
        self.statements, self.commits = 0, 0

    def statement(self, *_: Any) -> None:
        self.statements += 1

    def commit(self, *_: Any) -> None:
        self.commits += 1


@contextmanager
def counting() -> Iterator[Counted]:
    found = Counted()
    hooks: tuple[tuple[str, Callable[..., None]], ...] = (
        ("before_cursor_execute", found.statement),
        ("commit", found.commit),
    )
    for name, hook in hooks:
        event.listen(Engine, name, hook)
    try:
        yield found
    finally:
        for name, hook in hooks:
            event.remove(Engine, name, hook)


class Watched(Loop):
    """Notes what each trial asked of the database."""

    asked: list[tuple[int, int]]
    told: list[tuple[int, int]]

    def _adopt(self) -> Any:
        self.asked.append((0, 0))
        return self._noted(self.asked, super()._adopt)

    def _ask(self) -> Any:
        return self._noted(self.asked, super()._ask)

    def _finish(self, *args: Any) -> None:
        self.told.append((0, 0))
        self._noted(self.told, lambda: super(Watched, self)._finish(*args))

    @staticmethod
    def _noted(kept: list[tuple[int, int]], work: Callable[[], Any]) -> Any:
        with counting() as found:
            result = work()
        kept[-1] = (kept[-1][0] + found.statements, kept[-1][1] + found.commits)
        return result


def run(store: Store, trials: int, others: int = 0) -> Watched:
    """Run trials among those of other workers, who have theirs in hand all the time."""
    spec = SPEC.model_copy(update={"trials": trials, "workers": 2})
    study = Study(spec, store, SETTING, lease_s=LEASE_S)
    study._create()
    assert study._references()
    ledger = open_ledger(store, study.name, spec)
    policy = store.trials(study.name, role="reference")[0].policy
    for i in range(others):
        trial = ledger.ask(study.space.distributions, trials)
        assert trial is not None
        store.lease(store.add_trial(study.name, trial.number, policy), f"other {i}", LEASE_S)
    loop = Watched(study._session, ledger, "me", LEASE_S, leave=lambda: True)
    loop.asked, loop.told = [], []
    assert not loop.run() if others else loop.run()
    ledger.close()
    return loop


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    made = Store(database_url)
    yield made
    made.close()


def test_a_trial_takes_a_fixed_number_of_statements(store: Store) -> None:
    loop = run(store, 12 + OTHERS, OTHERS)
    assert len(loop.told) == 12 and len(loop.asked) == 13  # the last time there was nothing left
    asked, told = loop.asked[:-1], loop.told
    for taken, most in ((asked, ASK), (told, TELL)):
        statements, commits = most[store.engine.dialect.name]
        assert max(n for n, _ in taken) <= statements and max(n for _, n in taken) <= commits, taken
        assert max(taken[6:]) <= max(taken[:6])  # and it does not grow with the trials that there are


def test_a_new_worker_reads_a_history_in_a_fixed_number_of_statements(store: Store) -> None:
    taken = []
    for trials in (4, 12):
        run(store, trials)
        name = store.studies()[0].name
        ledger = open_ledger(store, name, SPEC)
        with counting() as found:
            assert len(ledger.trials()) == trials
            assert len(store.changed(name)[1]) > trials
        ledger.close()
        taken.append(found.statements)
    assert taken[0] == taken[1] <= READ
