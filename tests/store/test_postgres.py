"""What PostgreSQL does otherwise than SQLite: snapshots, clocks, servers that go away, upgrades of old schemas."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Integer, MetaData, create_engine, event, insert, select, text

from autotc.errors import SpecError, StoreAway, StoreError
from autotc.store import Store, engine, revision, schema
from autotc.store.reader import Reader
from tests.postgres import Server
from tests.store.builders import finish, number, outcomes, policy, start
from tests.store.test_schema import check_asset

ASSETS = Path(__file__).parent / "assets"


# --- transactions ---


def test_a_trial_that_finishes_during_a_read_is_seen_whole_or_not_at_all(store: Store) -> None:
    start(store)
    first = finish(store, "s", 0)
    running = store.add_trial("s", 1, policy(0.4))
    other, done = Store(store.url), []

    def meanwhile(*statement: Any) -> None:
        if not done and " metric" in statement[2]:
            done.append(True)
            other.finish_trial(running, "complete", [number()], {"tflops_exact": 1.0})

    event.listen(store.engine, "after_cursor_execute", meanwhile)
    seen = store.trials("s")
    event.remove(store.engine, "after_cursor_execute", meanwhile)
    assert done and [(r.id, r.state) for r in seen] == [(first, "complete"), (running, "running")]
    (now,) = (r for r in store.trials("s") if r.id == running)
    assert now.state == "complete" and now.numbers == [number()] and now.costs == {"tflops_exact": 1.0}
    other.close()


def test_leases_run_by_the_databases_clock(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fast(datetime):
        """A worker's clock that is an hour ahead."""

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=1)

    store, ahead = Store(postgres_url), Store(postgres_url)
    start(store)
    trial_id = store.add_trial("s", 0, policy())
    assert store.lease(trial_id, "right", 20) and store.close_study("s", "right", 20)
    for module in ("store", "engine"):
        monkeypatch.setattr(f"autotc.store.{module}.datetime", Fast)
    assert ahead.reap() == [] and not ahead.lease(trial_id, "ahead", 20)
    assert not ahead.close_study("s", "ahead", 20)
    monkeypatch.undo()
    with store.engine.connect() as connection:
        away_s = (engine.clock(connection) - datetime.now(UTC)).total_seconds()
    assert abs(away_s) < 60  # the server's own clock, with its time zone
    store.close()
    ahead.close()


def test_two_that_publish_one_front_at_once_publish_it_once(store: Store) -> None:
    start(store)
    members = [finish(store, "s", i) for i in range(3)]
    stores = [Store(store.url) for _ in range(4)]
    together = threading.Barrier(len(stores))
    ids: list[int] = []

    def publish(one: Store) -> None:
        one.studies()  # connected
        together.wait()
        ids.append(one.publish_front("s", 800.0, members))

    threads = [threading.Thread(target=publish, args=(one,)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in stores:
        one.close()
    assert len(ids) == 4 and len(set(ids)) == 1 and len(store.fronts("s")) == 1


def test_a_reader_cannot_write(store: Store) -> None:
    start(store)
    reader = Reader(store.url)
    assert reader.study("s") is not None
    with pytest.raises(StoreError, match=r"read-only|cannot be written|readonly"):
        reader.set_study_state("s", "finished")
    reader.close()


def test_numbers_too_large_for_a_column_find_nothing(store: Store) -> None:
    start(store)
    for huge in (2**31, 2**63, 2**100):
        assert store.job(huge) is None
        with pytest.raises(SpecError, match=f"no job {huge}"):
            store.stop_job(huge)
        with pytest.raises(StoreError, match=f"no trial with id {huge}"):
            store.trial(huge)


# --- servers that go away ---


@pytest.fixture
def filled(postgres_url: str) -> Store:
    store = Store(postgres_url)
    start(store)
    finish(store, "s", 0)
    return store


def test_a_server_that_is_restarted_between_two_steps_is_not_noticed(postgres: Server, filled: Store) -> None:
    for mode in ("immediate", "fast"):
        postgres.restart(mode)  # type: ignore[arg-type]
        assert filled.trial(1).state == "complete"
        postgres.restart(mode)  # type: ignore[arg-type]
        assert filled.look("s", "selection", "front") > 0
    filled.close()


def test_a_server_that_is_stopped_is_away_and_the_same_store_goes_on_afterwards(
    postgres: Server, filled: Store
) -> None:
    postgres.stop("immediate")
    hidden = postgres.url("x").split(":")[2].split("@")[0]
    for use in (lambda: filled.trial(1), lambda: finish(filled, "s", 1), lambda: filled.reap()):
        with pytest.raises(StoreAway, match=r"PostgreSQL says: .*refused.*Check that it runs") as caught:
            use()
        assert hidden not in str(caught.value)
    with pytest.raises(StoreAway):
        Store(filled.url)
    postgres.start()
    finish(filled, "s", 1)
    assert [r.number for r in filled.trials("s", state="complete")] == [0, 1]
    filled.close()


@pytest.mark.parametrize("at", ["first statement", "last statement", "commit"])
def test_a_server_that_dies_in_a_transaction_is_away_and_nothing_is_half_written(
    postgres: Server, filled: Store, at: str
) -> None:
    crashes, where = [], "INSERT INTO metric" if at == "first statement" else "DELETE FROM lease"

    def crash(*arguments: Any) -> None:
        if not crashes and (at == "commit" or arguments[2].startswith(where)):
            crashes.append(at)
            postgres.restart("immediate")

    trial_id = filled.add_trial("s", 1, policy(0.3))
    name = "commit" if at == "commit" else "before_cursor_execute"
    event.listen(filled.engine, name, crash)
    done = {"numbers": [number()], "costs": {"a": 1.0}, "outcomes": {"search": outcomes()}}
    with pytest.raises(StoreAway, match="PostgreSQL says"):
        filled.finish_trial(trial_id, "complete", **done)
    event.remove(filled.engine, name, crash)
    assert crashes == [at]
    row = filled.trial(trial_id)
    assert row.state == "running" and row.numbers == [] and row.costs == {}
    assert filled.finish_trial(trial_id, "complete", **done)
    assert len(filled.outcomes(trial_id, "search")["id"]) == 8
    filled.close()


def test_a_worker_that_was_frozen_in_a_transaction_only_has_to_try_again(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends such a session, so that nobody waits for its locks."""
    options = "-c idle_in_transaction_session_timeout=500ms"
    monkeypatch.setattr(engine, "KEEPALIVE", {**engine.KEEPALIVE, "options": options})
    store = Store(filled.url)
    frozen: list[bool] = []

    def freeze(*arguments: Any) -> None:
        if not frozen and arguments[2].startswith("INSERT INTO look"):
            frozen.append(True)
            time.sleep(1.5)

    event.listen(store.engine, "before_cursor_execute", freeze)
    with pytest.raises(StoreAway):
        store.look("s", "selection", "front")
    assert filled.look("s", "selection", "front") == 1 and frozen
    assert store.study("s") is not None
    store.close()
    filled.close()


def test_a_session_that_an_administrator_ends_only_has_to_try_again(postgres: Server, filled: Store) -> None:
    def end(*arguments: Any) -> None:
        if arguments[2].startswith("INSERT INTO look") and not ended:
            ended.append(postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                                          "WHERE datname LIKE 'test_%'"))  # fmt: skip

    ended: list[Any] = []
    event.listen(filled.engine, "before_cursor_execute", end)
    with pytest.raises(StoreAway, match="terminating connection"):
        filled.look("s", "selection", "front")
    assert filled.look("s", "selection", "front") == 1 and ended
    filled.close()


# --- messages ---


def test_a_user_who_may_make_no_tables_is_told_what_to_ask_for(postgres: Server, postgres_url: str) -> None:
    database = postgres_url.rsplit("/", 1)[1]
    postgres.execute("DROP ROLE IF EXISTS guest")
    postgres.execute("CREATE ROLE guest LOGIN PASSWORD 'guest-secret'")
    theirs = f"postgresql://guest:guest-secret@127.0.0.1:{postgres.port}/{database}"
    store = Store(theirs)
    with pytest.raises(
        StoreError, match=f"permission denied.*ALTER DATABASE {database} OWNER TO guest"
    ) as caught:
        start(store)
    assert not isinstance(caught.value, StoreAway)
    store.close()
    with pytest.raises(StoreError, match="password authentication failed"):
        Store(theirs.replace("guest-secret", "wrong"))
    with pytest.raises(StoreError, match="does not exist"):
        Store(postgres.url("nowhere"))


# --- upgrades ---


def load(url: str, asset: Path, at: str) -> None:
    """Make the database that an autotc of revision `at` would have made, with the rows of a SQLite one."""
    target = engine.make_engine(engine.parse_url(url))
    source = create_engine(f"sqlite:///{asset}")
    config = Config()
    config.set_main_option("script_location", revision.SCRIPTS)
    with target.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, at)
    old, new = MetaData(), MetaData()
    old.reflect(source)
    new.reflect(target)
    with source.connect() as reading, target.begin() as writing:
        for table in new.sorted_tables:
            if table.name == schema.VERSION_TABLE:
                continue
            rows = [dict(row._mapping) for row in reading.execute(select(old.tables[table.name]))]
            if rows:
                writing.execute(insert(table), rows)
            if "id" in table.c and isinstance(table.c.id.type, Integer):
                last = f"(SELECT coalesce(max(id), 0) + 1 FROM {table.name})"
                serial = f"pg_get_serial_sequence('{table.name}', 'id')"
                writing.execute(text(f"SELECT setval({serial}, {last}, false)"))
    target.dispose()
    source.dispose()


@pytest.mark.parametrize("old", schema.REVISIONS[:-1])
def test_a_database_of_every_former_revision_is_upgraded(postgres_url: str, old: str) -> None:
    load(postgres_url, ASSETS / f"revision_{old}.sqlite", old)
    store = Store(postgres_url, check=False)
    with pytest.raises(StoreError, match=f"schema {old}, this autotc uses .*autotc db upgrade"):
        store.studies()
    assert store.upgrade() == (old, schema.REVISIONS[-1])
    assert store.check()["trials"] == 5
    if old < "v0.1.0.d":  # from then on its running trial has ended
        check_asset(store)
    if old >= "v0.1.0.b":
        assert [it.result for it in store.calibrations()] == [{"rho": 0.5}]
    if old >= "v0.1.0.c":
        assert [job.state for job in store.jobs()] == ["finished", "queued"]
        assert store.token("0" * 64) is not None
    start(store, "more")
    finish(store, "more", 0)
    assert store.add_job({"model": "x"}).state == "queued"
    store.close()


def test_an_upgrade_that_is_interrupted_changes_nothing(postgres: Server, postgres_url: str) -> None:
    load(postgres_url, ASSETS / f"revision_{schema.REVISIONS[0]}.sqlite", schema.REVISIONS[0])
    store = Store(postgres_url, check=False)
    crashes: list[bool] = []

    def crash(*arguments: Any) -> None:
        if not crashes and "CREATE TABLE token" in arguments[2]:
            crashes.append(True)
            postgres.restart("immediate")

    event.listen(store.engine, "before_cursor_execute", crash)
    with pytest.raises(StoreAway):
        store.upgrade()
    with psycopg.connect(postgres_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert ("trial",) in tables and ("calibration",) not in tables
    assert store.upgrade() == (schema.REVISIONS[0], schema.REVISIONS[-1]) and crashes
    check_asset(store)
    store.close()
