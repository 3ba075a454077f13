"""Changes are counted: a reader that asks for what is new gets all of it, and nothing else."""

from __future__ import annotations

import threading

import pytest

from autotc.errors import SpecError
from autotc.store import Store
from autotc.store.reader import Reader
from tests.store.builders import finish, number, outcomes, policy, start


def test_what_is_shown_of_a_study_is_counted_when_it_changes(store: Store) -> None:
    name = start(store)
    other = start(store, "other")
    at, rows = store.changed(name)
    assert rows == [] and at == store.changes(name)
    trial = finish(store, name, 0)
    steps = (
        lambda: finish(store, name, 1),
        lambda: store.add_numbers(trial, [number(0.7, "quality", "selection")]),
        lambda: store.add_outcomes(trial, "selection", outcomes(4)),
    )
    for step in steps:
        at = store.changes(name) or 0
        step()
        now, rows = store.changed(name, at)
        assert now > at and len(rows) == 1
        assert rows[0] == store.trial(rows[0].id)
    for again in (
        lambda: store.set_study_state(name, "finished"),
        lambda: store.publish_front(name, 800.0, [trial]),
    ):
        at = store.changes(name) or 0
        again()
        assert store.changed(name, at) == (at + 1, [])
    running = store.add_trial(name, 9, policy(0.2))
    at = store.changes(name) or 0
    store.publish_front(name, 800.0, [trial])  # it is there already
    assert store.add_trial(name, 0, policy(0.9), params={"keep": 0.9}) == trial
    assert not store.finish_trial(trial)
    assert store.lease(running, "w", 1.0) and store.release(running, "w")
    assert store.changes(name) == at and store.changed(name, at) == (at, [])
    reader = Reader(store.url)
    assert reader.versions() == {name: (str(at),), other: (str(store.changes(other)),)}
    reader.close()
    assert store.changes("none") is None
    with pytest.raises(SpecError, match="unknown study 'none'"):
        store.changed("none")


def test_numbers_choose_trials_and_no_references(store: Store) -> None:
    name = start(store)
    for i in range(12):
        finish(store, name, i)
    store.add_trial(name, None, policy(0.3), role="reference", label="1")
    assert [row.number for row in store.trials(name, numbers=[11, 1, 99])] == [1, 11]
    assert store.trials(name, numbers=[]) == []


def test_a_reader_misses_nothing_while_several_write(store: Store) -> None:
    name = start(store)
    others = [Store(store.url) for _ in range(3)]

    def write(which: int) -> None:
        for i in range(8):
            finish(others[which], name, 3 * i + which)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    seen: dict[int | None, str] = {}
    at = -1
    while any(t.is_alive() for t in threads) or at != store.changes(name):
        at, rows = store.changed(name, at)
        seen |= {row.number: row.state for row in rows}
    for thread in threads:
        thread.join()
    assert seen == dict.fromkeys(range(24), "complete")
    for other in others:
        other.close()
