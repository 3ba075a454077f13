"""The invariants hold for a search that nothing happened to, and each damage is noticed."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from autotc.errors import StoreError
from autotc.search.study import Study
from autotc.store import Store
from tests.chaos.invariants import INVARIANTS, Finished, Seen, complaints
from tests.search.test_study import SETTING
from tests.service.conftest import SMALL

SPEC = SMALL.model_copy(update={"study": "s", "trials": 6})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    file = tmp_path_factory.mktemp("whole") / "whole.db"
    store, seen = Store(f"sqlite:///{file}"), Seen()
    Study(SPEC, store, SETTING).run()
    seen.look(store)
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    return file, seen


def broken(whole: tuple[Path, Seen], folder: Path, *damage: str) -> set[str]:
    file, seen = whole
    shutil.copy(file, folder / "chaos.db")
    store = Store(f"sqlite:///{folder}/chaos.db")
    with sqlite3.connect(folder / "chaos.db") as connection:
        for statement in damage:
            assert connection.execute(statement).rowcount > 0, statement
    connection.close()
    try:
        return set(complaints(Finished(store, SPEC, seen)))
    finally:
        store.close()


def test_a_search_that_nothing_happened_to_is_whole(whole: tuple[Path, Seen], tmp_path: Path) -> None:
    assert broken(whole, tmp_path) == set()


TRIAL = "(SELECT id FROM trial WHERE number = 2)"
DAMAGE = {
    "a study that hangs": ("UPDATE study SET state = 'running'", "it_ended_by_itself"),
    "a gap in the numbers": ("UPDATE trial SET number = 9 WHERE number = 5", "numbers_are_unique"),
    "a number twice": ("UPDATE trial SET number = 3 WHERE number = 2", "numbers_are_unique"),
    "another quality": (
        f"UPDATE metric SET value = value / 2 WHERE name = 'quality' AND split = 'search' AND trial_id = {TRIAL}",
        "nothing_finished_is_lost",
    ),
    "a trial opened again": (
        f"UPDATE trial SET state = 'running' WHERE id = {TRIAL}",
        "nothing_finished_is_lost",
    ),
    "a running trial": (f"UPDATE trial SET state = 'running' WHERE id = {TRIAL}", "nothing_is_left_in_hand"),
    "a lease": (
        f"INSERT INTO lease VALUES ({TRIAL}, 'dead', '2026-01-01 00:00:00', '2026-01-01 00:00:00')",
        "nothing_is_left_in_hand",
    ),
    "a trial that was never told": (
        "UPDATE trials SET state = 'RUNNING' WHERE number = 2",
        "nothing_is_left_in_hand",
    ),
    "an outcome less": (
        f"DELETE FROM outcome WHERE (trial_id, example_id) IN "
        f"(SELECT trial_id, example_id FROM outcome WHERE trial_id = {TRIAL} LIMIT 1)",
        "trials_are_whole",
    ),
    "another outcome": (
        f"UPDATE outcome SET correct = 1 - correct WHERE trial_id = {TRIAL}",
        "trials_are_whole",
    ),
    "no costs": (f"DELETE FROM cost WHERE trial_id = {TRIAL}", "trials_are_whole"),
    "a stage less": (f"DELETE FROM trace WHERE trial_id = {TRIAL}", "trials_are_whole"),
    "a failure without a reason": (
        f"UPDATE trial SET state = 'failed', reason = NULL WHERE id = {TRIAL}",
        "trials_are_whole",
    ),
    "another value told": (
        "UPDATE trial_values SET value = value + 0.5 WHERE trial_id = (SELECT trial_id FROM trials WHERE number = 2)",
        "the_sampler_knows_what_is_stored",
    ),
    "another constraint told": (
        "UPDATE trial_system_attributes SET value_json = '7.0' WHERE key LIKE 'constraints:%'",
        "the_sampler_knows_what_is_stored",
    ),
    "a front member less": ("DELETE FROM front_member WHERE rank = 0", "the_front_is_the_front"),
    "other figures on the front": ("UPDATE front_member SET costs = '{}'", "the_front_is_the_front"),
    "two fronts": (
        "INSERT INTO front (study_id, budget, created) SELECT study_id, budget, created FROM front",
        "the_front_is_the_front",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_is_noticed(whole: tuple[Path, Seen], tmp_path: Path, name: str) -> None:
    statement, invariant = DAMAGE[name]
    assert invariant in broken(whole, tmp_path, statement)


def test_rows_of_a_missing_trial_are_noticed(whole: tuple[Path, Seen], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="refers to a missing row of trial"):
        broken(whole, tmp_path, "DELETE FROM trial WHERE number = 2")


def test_every_invariant_has_a_damage_that_breaks_it() -> None:
    assert {name for _, name in DAMAGE.values()} == {check.__name__ for check in INVARIANTS}
