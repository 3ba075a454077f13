"""Imported once, by the process that workers are forked from: a short search, so that nothing is left to load."""

from __future__ import annotations

import tempfile

import psycopg  # noqa: F401

from autotc.search.team import TeamStudy
from autotc.store import Store
from tests.chaos import fleet  # noqa: F401
from tests.search.test_study import SETTING
from tests.service.conftest import SMALL

with tempfile.TemporaryDirectory() as folder:
    store = Store(f"sqlite:///{folder}/warm.db")
    TeamStudy(SMALL.model_copy(update={"study": "warm", "trials": 18}), store, SETTING).work()
    store.close()
