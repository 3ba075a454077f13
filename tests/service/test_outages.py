"""A worker whose PostgreSQL server crashes again and again, at whatever statement it is."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Engine, event

from autotc.service import queue
from autotc.store import Store
from tests.fakes import FakeEvaluator
from tests.postgres import Server
from tests.service.conftest import SMALL
from tests.service.test_worker import using, whole, work

EVERY = 53  # statements; a prime, so that each round of the loop meets it elsewhere
MOST = 5  # crashes


@pytest.mark.parametrize("back_s", [0.0, 1.0])
def test_a_server_that_crashes_every_few_statements_costs_no_trial_and_no_worker(
    postgres: Server, postgres_url: str, back_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(postgres_url)
    queue.submit(store, SMALL.model_copy(update={"study": "s"}))
    monkeypatch.setattr("autotc.search._patience.LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr("autotc.service.worker.IDLE_S", 0.2)
    monkeypatch.setattr("autotc.search._loop.ORPHAN_S", 1.0)
    statements, crashes, main = [0], [0], threading.get_ident()
    later: list[threading.Timer] = []

    def crash(*arguments: Any) -> None:
        if threading.get_ident() != main or (later and later[-1].is_alive()):
            return
        statements[0] += 1
        if statements[0] % EVERY == 0 and crashes[0] < MOST:
            crashes[0] += 1
            postgres.stop("immediate")
            if back_s:
                later.append(threading.Timer(back_s, postgres.start))
                later[-1].start()
            else:
                postgres.start()

    evaluator, lines = FakeEvaluator(), []
    event.listen(Engine, "before_cursor_execute", crash)
    try:
        work(store, using(evaluator), lines, lease_s=2.0)
    finally:
        event.remove(Engine, "before_cursor_execute", crash)
        for timer in later:
            timer.join()
    assert crashes[0] == MOST and any("the database is away" in line for line in lines), lines
    assert [(job.state, job.reason) for job in store.jobs()] == [("finished", None)]
    whole(store, "s", SMALL.trials)
    for row in store.trials("s"):
        assert row.state == "complete" and len(store.outcomes(row.id, "search")["id"]) == SMALL.examples
    store.close()
