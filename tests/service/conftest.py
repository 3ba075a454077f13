"""A database with a small finished study, and clients of the HTTP service over it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from autotc.search.study import Study
from autotc.service import tokens
from autotc.service.api import make_app
from autotc.service.roots import Roots
from autotc.store import Store
from tests.search.test_study import SETTING, SPEC

SMALL = SPEC.model_copy(
    update={"trials": 4, "examples": 32, "reducers": ("divprune", "fastv"), "strategy": "plain"}
)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one finished study."""
    file = tmp_path_factory.mktemp("service") / "searched.db"
    store = Store(f"sqlite:///{file}")
    Study(SMALL.model_copy(update={"study": "done"}), store, SETTING).run()
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    return file


@pytest.fixture
def store(searched: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of that database for one test."""
    shutil.copy(searched, tmp_path / "autotc.db")
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    yield store
    store.close()


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Folders for models and data, with one of each, and things outside of them."""
    for place in ("models/mine", "data", "outside"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "models/mine/config.json").write_text("{}")
    (tmp_path / "data/my.jsonl").write_text('{"image": "a.png", "question": "?"}\n')
    (tmp_path / "outside/secret.jsonl").write_text("secret")
    (tmp_path / "outside/config.json").write_text("{}")
    (tmp_path / "data/link.jsonl").symlink_to(tmp_path / "outside/secret.jsonl")
    (tmp_path / "models/link").symlink_to(tmp_path / "outside")
    return Roots.of([tmp_path / "models"], [tmp_path / "data"])


class Clients:
    """Clients without a token, with a wrong one, and with tokens of each scope."""

    def __init__(self, store: Store, roots: Roots) -> None:
        app = make_app(store, roots, ("autotc.example",))
        both = tokens.create(store, "both", ["read", "submit"])[1]
        reads = tokens.create(store, "reads", ["read"])[1]
        submits = tokens.create(store, "submits", ["submit"])[1]
        gone = tokens.create(store, "gone", ["read", "submit"])[1]
        store.revoke_token("gone")
        self.secrets = [both, reads, submits, gone]
        self.nobody, self.wrong = self._client(app, None), self._client(app, "autotc_wrong")
        self.both, self.reads, self.submits = (self._client(app, s) for s in (both, reads, submits))
        self.gone = self._client(app, gone)

    @staticmethod
    def _client(app: Any, secret: str | None) -> TestClient:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return TestClient(
            app, base_url="http://127.0.0.1:8642", headers=headers, raise_server_exceptions=False
        )


@pytest.fixture
def clients(store: Store, roots: Roots) -> Clients:
    return Clients(store, roots)
