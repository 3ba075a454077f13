"""Made, upgraded, shared with Optuna; refused when it is too new, too old or somebody else's."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, make_url, text

from autotc.errors import StoreError
from autotc.store import Store, engine, revision, schema
from autotc.store import migrations as shipped
from tests.store.builders import finish, outcomes, policy, start

ASSETS = Path(__file__).parent / "assets"
ASSET = ASSETS / "revision_v0.1.0.a.sqlite"
FUTURE = '''
"""Only of the tests: the next revision."""

import sqlalchemy as sa
from alembic import op

revision = "v9.9.0.a"
down_revision = "{before}"


def upgrade() -> None:
    with op.batch_alter_table("trial") as batch:
        batch.add_column(sa.Column("mood", sa.Text(), nullable=True))
    {more}
'''


@pytest.fixture
def old(tmp_path: Path) -> str:
    """A database of the first revision."""
    shutil.copy(ASSET, tmp_path / "old.db")
    return f"sqlite:///{tmp_path}/old.db"


@pytest.fixture
def future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this autotc one that has one more revision."""

    def arrive(more: str = "pass") -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(Path(shipped.__file__).parent, folder, dirs_exist_ok=True)
        script = FUTURE.format(before=schema.REVISIONS[-1], more=more)
        (folder / "versions" / "v9_9_0_a.py").write_text(script)
        monkeypatch.setattr(revision, "SCRIPTS", str(folder))
        monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "v9.9.0.a"))

    return arrive


@pytest.fixture
def optuna_storage() -> Iterator[Callable[[str], optuna.storages.BaseStorage]]:
    """Opens Optuna's storages, and closes them, for which Optuna itself has no call."""
    opened = []

    def open_storage(url: str) -> optuna.storages.BaseStorage:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        opened.append(optuna.storages.get_storage(url))
        return opened[-1]

    yield open_storage
    for storage in opened:
        storage.remove_session()
        storage._backend.engine.dispose()


def check_asset(store: Store) -> None:
    (study,) = store.studies()
    assert (study.name, study.state, study.counts) == ("typical", "finished", {"complete": 3, "running": 1})
    trials = store.trials("typical")
    assert [(t.number, t.label, t.state) for t in trials] == [
        (0, None, "complete"),
        (1, None, "complete"),
        (2, None, "complete"),
        (None, "random", "complete"),
        (3, None, "running"),
    ]
    assert [t.policy for t in trials[:2]] == [policy(0.9), policy(0.899)]
    assert trials[0].number_of("quality", "held-out").value == 0.48
    assert trials[1].costs == {"tflops_exact": 101.0, "parts": {"tower": 3.0}}
    assert trials[2].trace[1] == {"stage": 1, "asked": 144.0, "kept": 140.5}
    assert store.outcomes(trials[0].id, "search")["kl"].tolist() == outcomes(4)["kl"].tolist()
    assert len(store.outcomes(trials[0].id, "held-out")["id"]) == 4
    assert [m.trial_id for m in store.fronts("typical")[0].members] == [trials[0].id, trials[1].id]
    assert [look.why for look in store.looks("typical")] == ["front"]
    assert [lease.worker for lease in store.reap()] == ["worker-1"]


def test_the_migrations_make_exactly_the_tables_of_the_schema(store: Store) -> None:
    assert store.upgrade() == (None, schema.REVISIONS[-1])
    assert store.upgrade() == (schema.REVISIONS[-1], schema.REVISIONS[-1])
    with store.engine.connect() as connection:
        names = set(inspect(connection).get_table_names())
        assert names == {*schema.TABLES, "autotc_alembic_version"}
        options = {
            "version_table": schema.VERSION_TABLE,
            "compare_type": True,
            "target_metadata": schema.Base.metadata,
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.Base.metadata) == []


def test_the_listed_revisions_are_those_of_the_files() -> None:
    config = Config()
    config.set_main_option("script_location", revision.SCRIPTS)
    script = ScriptDirectory.from_config(config)
    history = [r.revision for r in script.walk_revisions()]
    assert tuple(reversed(history)) == schema.REVISIONS


def test_reading_makes_no_file(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    assert not store.exists() and store.studies() == [] and store.study("s") is None
    assert store.reap() == [] and store.fronts("s") == [] and store.looks("s") == []
    with pytest.raises(StoreError, match=r"there is no autotc database\. Make one: autotc db upgrade"):
        store.check()
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_the_first_revision_is_read_and_upgraded(old: str) -> None:
    store = Store(old, check=False)
    assert store.upgrade()[1] == schema.REVISIONS[-1]
    assert store.check()["trials"] == 5
    check_asset(store)
    start(store, "more")
    finish(store, "more", 0)
    store.close()


def test_a_database_of_the_second_revision_is_read_and_upgraded(tmp_path: Path) -> None:
    shutil.copy(ASSETS / "revision_v0.1.0.b.sqlite", tmp_path / "second.db")
    store = Store(f"sqlite:///{tmp_path}/second.db", check=False)
    assert store.upgrade()[1] == schema.REVISIONS[-1]
    check_asset(store)
    it = store.calibration("m1", "p1", "d1")
    assert it is not None and (it.model, it.examples, it.result) == ("/models/mine", 2, {"rho": 0.5})
    assert [(a.label, a.share, a.reason) for a in it.anchors] == [
        ("half", 0.5, None),
        ("broken", 0.3, "out of memory"),
    ]
    assert it.anchors[0].policy == policy(0.5) and it.anchors[0].outcomes["proxy"]["correct"] == [1.0, 0.0]
    store.close()


def test_a_database_of_the_third_revision_is_read_and_upgraded(tmp_path: Path) -> None:
    shutil.copy(ASSETS / "revision_v0.1.0.c.sqlite", tmp_path / "third.db")
    store = Store(f"sqlite:///{tmp_path}/third.db", check=False)
    assert store.upgrade()[1] == schema.REVISIONS[-1]
    check_asset(store)
    done, waiting = store.jobs()
    assert (done.state, done.study, done.submitted_by) == ("finished", "typical", "ci")
    assert (waiting.state, waiting.spec, waiting.started) == ("queued", {"model": "llava-1.5-7b"}, None)
    assert [(t.name, t.scopes, t.revoked is None) for t in store.tokens()] == [
        ("ci", ["read", "submit"], True),
        ("old", ["read"], False),
    ]
    assert store.token("0" * 64) is not None and store.token("1" * 64) is None
    assert store.add_loss(store.trials("typical", state="running")[0].id) == 2
    store.close()


def test_a_database_of_the_fourth_revision_is_read_and_upgraded(tmp_path: Path) -> None:
    shutil.copy(ASSETS / "revision_v0.1.0.d.sqlite", tmp_path / "fourth.db")
    store = Store(f"sqlite:///{tmp_path}/fourth.db", check=False)
    assert store.upgrade()[1] == schema.REVISIONS[-1]
    (study,) = store.studies()
    assert study.environments == [{"autotc": "0.1.0", "cpu": "AMD EPYC", "cores": 2, "gpu": []}]
    found = {t.number: t.environment for t in store.trials("typical", role="trial")}
    assert found == {0: None, 1: None, 2: None, 3: study.environments[0]}
    store.close()


def test_a_database_of_the_fifth_revision_is_read_and_upgraded(tmp_path: Path) -> None:
    shutil.copy(ASSETS / "revision_v0.1.0.e.sqlite", tmp_path / "fifth.db")
    store = Store(f"sqlite:///{tmp_path}/fifth.db", check=False)
    assert store.upgrade()[1] == schema.REVISIONS[-1]
    now, rows = store.changed("typical")
    assert now == 2 and len(rows) == 6
    now, rows = store.changed("typical", 0)  # those of earlier revisions were never counted
    assert now == 2 and [row.number for row in rows] == [4]
    store.close()


def test_an_older_schema_is_refused_with_the_command_and_upgraded_by_it(
    old: str, future: Callable[..., None]
) -> None:
    future()
    with pytest.raises(
        StoreError, match=r"schema v0\.1\.0\.a, this autotc uses v9\.9\.0\.a.*autotc db upgrade$"
    ):
        Store(old)
    store = Store(old, check=False)
    with pytest.raises(StoreError, match="autotc db upgrade"):
        start(store)
    assert store.upgrade() == ("v0.1.0.a", "v9.9.0.a")
    with store.engine.connect() as connection:
        assert "mood" in {c["name"] for c in inspect(connection).get_columns("trial")}
    check_asset(Store(old))
    store.close()


def test_an_upgrade_that_fails_changes_nothing(old: str, future: Callable[..., None]) -> None:
    future("op.execute('SELECT * FROM nowhere')")
    store = Store(old, check=False)
    with pytest.raises(StoreError, match="nowhere"):
        store.upgrade()
    with store.engine.connect() as connection:
        assert "mood" not in {c["name"] for c in inspect(connection).get_columns("trial")}
        assert connection.scalar(text("SELECT version_num FROM autotc_alembic_version")) == "v0.1.0.a"
    store.close()


def test_a_newer_schema_is_refused_saying_which_autotc_is_needed(
    old: str, future: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    future()
    Store(old, check=False).upgrade()
    monkeypatch.undo()
    for use in (lambda: Store(old), Store(old, check=False).upgrade, Store(old, check=False).studies):
        with pytest.raises(StoreError, match=r"needs autotc 9\.9\.0 or newer: pip install --upgrade autotc"):
            use()


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE recipes (id INTEGER)")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"another program \(its tables: recipes\).*--storage"):
        Store(f"sqlite:///{file}")
    store = Store(f"sqlite:///{file}", check=False)
    with pytest.raises(StoreError, match="another program"):
        store.upgrade()
    with pytest.raises(StoreError, match="another program"):
        start(store)
    store.close()
    assert file.read_bytes() == before and not Path(f"{file}-wal").exists()


def test_a_table_of_our_name_that_is_not_ours_is_refused_beside_optuna(
    tmp_path: Path, optuna_storage: Callable[[str], optuna.storages.BaseStorage]
) -> None:
    file = tmp_path / "shared.db"
    optuna_storage(f"sqlite:///{file}")
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE trial (id INTEGER)")
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        Store(f"sqlite:///{file}")


@pytest.mark.parametrize("first", ["optuna", "autotc"])
def test_optuna_shares_the_database(
    store: Store, first: str, optuna_storage: Callable[[str], optuna.storages.BaseStorage]
) -> None:
    reopened = Store(store.url, check=False)
    if first == "autotc":
        start(store)
    search = optuna.create_study(storage=optuna_storage(store.url), study_name="s", direction="minimize")
    if first == "optuna":
        assert not reopened.exists()
        start(store)
    for i in range(3):
        trial = search.ask()
        trial.suggest_float("x", 0, 1)
        finish(store, "s", trial.number)
        search.tell(trial, float(i))
    assert store.upgrade()[0] == schema.REVISIONS[-1]
    assert [t.number for t in reopened.trials("s", state="complete")] == [0, 1, 2]
    again = optuna.load_study(storage=optuna_storage(store.url), study_name="s")
    assert [t.value for t in again.trials] == [0.0, 1.0, 2.0]
    assert store.check()["trials"] == 3
    reopened.close()


def test_sqlite_is_set_up_for_several_processes(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    start(store)
    with store.engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
        }
    assert settings == {"journal_mode": "wal", "busy_timeout": 30000, "foreign_keys": 1, "synchronous": 1}
    # a reader in the middle of its transaction blocks no writer
    with store.engine.connect() as reader:
        reader.execute(text("SELECT * FROM study")).all()
        finish(store, "s", 0)
    store.close()


def test_the_address_comes_from_the_environment_or_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOTC_STORAGE", raising=False)
    assert Store().url == "sqlite:///autotc.db"
    monkeypatch.setenv("AUTOTC_STORAGE", f"sqlite:///{tmp_path}/env.db")
    assert Store().url == f"sqlite:///{tmp_path}/env.db"
    assert Store("sqlite:///given.db").url == "sqlite:///given.db"


def test_importing_the_store_imports_no_heavy_package() -> None:
    code = (
        "import sys, autotc.store, autotc.pareto; "
        "print([m for m in ('torch', 'optuna', 'transformers', 'alembic') if m in sys.modules])"
    )
    path = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_file_that_another_process_writes_to_is_switched_to_its_log_when_that_is_done(
    tmp_path: Path,
) -> None:
    """Two workers may make one database at the same moment; SQLite refuses the switch at once then."""
    file = tmp_path / "autotc.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE begun (id INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO begun VALUES (1)")
    ends = threading.Timer(0.5, other.rollback)
    made = engine.make_engine(make_url(f"sqlite:///{file}"))
    with pytest.raises(sqlite3.OperationalError, match="locked"), sqlite3.connect(file, timeout=0) as third:
        third.execute("PRAGMA journal_mode=WAL")
    ends.start()
    engine.prepare_for_writing(made)
    ends.join()
    with sqlite3.connect(file) as third:
        assert third.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
