"""Stores that pages are opened on, and the pages themselves without a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from autotc.store.sample import fill

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
PAGES = ("studies", "front", "policy", "sees", "methods", "runs")
TITLES = {"sees": "What it sees"}

Open = Callable[..., AppTest]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two studies of 40 trials; the second is running."""
    url = f"sqlite:///{tmp_path_factory.mktemp('small')}/autotc.db"
    fill(url, [40, 40])
    return url


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """10,000 trials in 20 studies."""
    url = f"sqlite:///{tmp_path_factory.mktemp('large')}/autotc.db"
    fill(url, [500] * 20)
    return url


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open a page on a database; returns the page as it was drawn. Reads are cached by address, and so stay apart."""
    monkeypatch.delenv("AUTOTC_PICTURES", raising=False)

    monkeypatch.delenv("AUTOTC_PASSWORD_FILE", raising=False)

    def open_(url: str, page: str = "studies", **query: str) -> AppTest:
        monkeypatch.setenv("AUTOTC_STORAGE", url)
        at = AppTest.from_file(str(APP), default_timeout=400)
        for name, value in query.items():
            at.query_params[name] = value
        return at.run() if page == "studies" else at.switch_page(f"views/{page}.py").run()

    return open_


def title(page: str) -> str:
    """What a page is headed."""
    return TITLES.get(page, page.capitalize())
