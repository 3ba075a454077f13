"""What is read and written in Optuna's tables in bulk is what Optuna itself reads and writes there."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from autotc.search import _history
from autotc.search._history import History
from autotc.search._ledger import Ledger
from autotc.store import Store

SPACE = {
    "keep": FloatDistribution(0.01, 1.0, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.125),
    "depth": IntDistribution(1, 27),
    "layers": IntDistribution(2, 64, log=True),
    "reducer": CategoricalDistribution(("fastv", "divprune", None, 3, 2.5, True)),
}
OTHER = {"keep": FloatDistribution(0.01, 0.5, log=True), "more": IntDistribution(0, 8, step=2)}


def opened(url: str, name: str = "study") -> Ledger:
    return Ledger(url, "shown.db", name, "random", 0, workers=2)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    store = Store(database_url)
    store.upgrade()
    store.close()
    made = opened(store.url)
    yield made
    made.close()


def by_optuna(ledger: Ledger) -> list[FrozenTrial]:
    """Return all trials as Optuna's storage reads them."""
    return RDBStorage.get_all_trials(ledger._storage, ledger.study._study_id)


def ask(ledger: Ledger, space: dict[str, Any] = SPACE) -> FrozenTrial:
    trial = ledger.ask(space, 1000)
    assert trial is not None
    return trial


def choose(trials: list[FrozenTrial], start: dict[str, Any] | None) -> FrozenTrial:
    return optuna.create_trial(
        state=TrialState.RUNNING,
        params={"keep": 0.1, "depth": 3, "reducer": None},
        distributions={k: SPACE[k] for k in ("keep", "depth", "reducer")},
        system_attrs={"autotc:drawn": True, "generation": [1, {"parents": [0.25, None]}]},
        user_attrs={"autotc:policy": {"stages": [{"keep": 0.1}]}},
    )


def test_trials_are_to_optuna_as_they_are_here(ledger: Ledger) -> None:
    running, told, infinite, dropped, other = (
        ask(ledger),
        ask(ledger),
        ask(ledger),
        ask(ledger),
        ask(ledger, OTHER),
    )
    chosen = ledger.ask({}, 1000, choose=choose)
    assert chosen is not None
    ledger.tell(told, (0.25, 731.5), {"memory_gib": -1.5, "failed": 1.0})
    ledger.tell(infinite, (-math.inf, math.inf), {"memory_gib": math.inf})
    assert ledger.drop(dropped, 2)
    ledger.tell(other, (1, 2), {})
    there = by_optuna(ledger)
    assert there == ledger.trials()
    late = opened(ledger._storage.url)
    assert there == late.trials()
    late.close()
    # and what was handed out is what was stored
    assert (running, chosen) == (there[0], there[5])
    assert [t.number for t in there] == list(range(6))
    states = [t.state.name for t in there]
    assert states == ["RUNNING", "COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "RUNNING"]
    assert there[1].values == [0.25, 731.5]
    assert there[1].constraints == {"memory_gib": -1.5, "failed": 1.0}
    assert there[2].values == [-math.inf, math.inf]
    assert there[3].values is None
    assert [list(t.params) for t in there[:5]] == [list(SPACE)] * 4 + [list(OTHER)]
    assert chosen.params == {"keep": 0.1, "depth": 3, "reducer": None}
    assert chosen.system_attrs["generation"] == [1, {"parents": [0.25, None]}]
    assert chosen.user_attrs == {"autotc:policy": {"stages": [{"keep": 0.1}]}}


def test_optunas_own_trials_are_read(ledger: Ledger) -> None:
    """Of a study that an older autotc began, or to which somebody adds by hand."""
    trial = ledger.study.ask(SPACE)  # type: ignore[arg-type]
    mine = ask(ledger)
    assert (trial.number, mine.number) == (0, 1)
    assert ledger.trials()[0].params == trial.params
    trial.set_constraint("memory_gib", 0.5)
    ledger.study.tell(trial, (0.5, 1.0))
    later = ledger.study.ask(SPACE)  # type: ignore[arg-type]
    ledger.study.tell(mine.number, (0.75, 2.0))
    assert ledger.trials() == by_optuna(ledger)
    assert [t.number for t in ledger.running()] == [later.number] == [2]
    assert ledger.count() == 3
    assert [t.number for t in ledger.study.best_trials] == [1]


def test_a_look_reads_what_others_did_since(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """In portions too, and beside another study in the same database."""
    monkeypatch.setattr(_history, "PORTION", 2)
    one, two = opened(ledger._storage.url), opened(ledger._storage.url, "another")
    for _ in range(4):
        first, second, third = ask(one), ask(two, OTHER), ask(one)
        assert ledger.trials() == by_optuna(ledger)
        one.tell(third, (0.5, 1.0), {"failed": 1.0})
        assert ledger.trials() == by_optuna(ledger)
        two.tell(second, (0.5, 1.0), {})
        one.tell(first, (0.25, 2.0), {})
    late = opened(ledger._storage.url)
    assert late.trials() == ledger.trials() == by_optuna(ledger)
    late.close()
    assert two.trials() == by_optuna(two)
    assert (ledger.count(), two.count(), ledger.running(), two.running()) == (8, 4, [], [])
    one.close()
    two.close()


def test_many_who_ask_and_tell_at_once(ledger: Ledger) -> None:
    """Numbers are given once, totals hold, and of two who tell one trial one counts, whole."""
    total, failed = 24, []
    ledgers = [opened(ledger._storage.url) for _ in range(4)]

    def work(mine: Ledger, place: int) -> None:
        try:
            while (trial := mine.ask(SPACE, total)) is not None:
                for running in mine.running():
                    mine.tell(running, (float(place), float(place)), {f"by_{place}": float(place)})
                mine.tell(trial, (float(place), float(place)), {f"by_{place}": float(place)})
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(mine, i)) for i, mine in enumerate(ledgers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in ledgers:
        mine.close()
    assert not failed
    there = by_optuna(ledger)
    assert [t.number for t in there] == list(range(total))
    assert all(t.state == TrialState.COMPLETE for t in there)
    assert all(
        t.values == [p, p] and t.constraints == {f"by_{p:.0f}": p} for t in there for p in t.values[:1]
    )
    assert there == ledger.trials()


def test_a_trial_that_is_not_committed_is_not_kept(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(ledger)
    insert = _history._insert

    def broken(connection: Any, table: Any, *rest: Any) -> None:
        insert(connection, table, *rest)
        raise OSError("the cable")

    with monkeypatch.context() as patched:
        patched.setattr(_history, "_insert", broken)
        with pytest.raises(OSError, match="the cable"):
            ask(ledger)
    assert len(ledger.trials()) == 1
    assert ask(ledger).number == 1
    assert ledger.trials() == by_optuna(ledger)


def test_nan_is_not_a_figure(ledger: Ledger) -> None:
    ledger.tell(ask(ledger), (math.nan, 1.0), {"failed": 1.0})
    assert [(t.state, t.values) for t in by_optuna(ledger)] == [(TrialState.FAIL, None)]
    assert ledger.count() == 0


def test_it_reads_nothing_twice(ledger: Ledger) -> None:
    history = History(ledger._storage.engine, ledger.study._study_id)
    ledger.tell(ask(ledger), (0.5, 1.0), {})
    before = history.read()[0]
    ask(ledger)
    assert history.read()[0] is before and len(history.trials) == 2
