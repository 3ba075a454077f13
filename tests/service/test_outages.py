"""A PostgreSQL server that crashes at whatever statement, or is away from the start, and who needs it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from autotc import cli
from autotc.errors import StoreAway
from autotc.search._patience import Patience
from autotc.search.study import Study
from autotc.service import queue
from autotc.service.stopping import Stopping
from autotc.service.worker import Worker
from autotc.store import Store
from tests.fakes import FakeEvaluator
from tests.postgres import Server
from tests.search.test_study import SETTING
from tests.service.conftest import SMALL
from tests.service.test_worker import using, whole, work

EVERY = 53  # statements; a prime, so that each round of the loop meets it elsewhere
MOST = 5  # crashes


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for long before the next try."""
    monkeypatch.setattr("autotc.search._patience.LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr("autotc.service.worker.IDLE_S", 0.2)
    monkeypatch.setattr("autotc.search._loop.ORPHAN_S", 1.0)


@contextmanager
def crashing(postgres: Server, back_s: float) -> Iterator[None]:
    """Let the server crash every few statements of this thread, and come back after some seconds."""
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

    event.listen(Engine, "before_cursor_execute", crash)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", crash)
        for timer in later:
            timer.join()
    assert crashes[0] == MOST


def all_measured(store: Store) -> None:
    whole(store, "s", SMALL.trials)
    for row in store.trials("s"):
        assert row.state == "complete" and len(store.outcomes(row.id, "search")["id"]) == SMALL.examples


@pytest.mark.parametrize("back_s", [0.0, 1.0])
def test_a_server_that_crashes_every_few_statements_costs_no_trial_and_no_worker(
    postgres: Server, postgres_url: str, back_s: float
) -> None:
    store, lines = Store(postgres_url), []
    queue.submit(store, SMALL.model_copy(update={"study": "s"}))
    with crashing(postgres, back_s):
        work(store, using(FakeEvaluator()), lines, lease_s=2.0)
    assert any("the database is away" in line for line in lines), lines
    assert [(job.state, job.reason) for job in store.jobs()] == [("finished", None)]
    all_measured(store)
    store.close()


def test_a_search_waits_for_its_server_and_repeats_no_evaluation(postgres: Server, postgres_url: str) -> None:
    store, evaluator, lines = Store(postgres_url), FakeEvaluator(), list[str]()
    patiently = Patience(lambda: True, lines.append, store)
    with crashing(postgres, 0.5):
        study = Study(SMALL.model_copy(update={"study": "s"}), store, using(evaluator), patiently=patiently)
        result = study.run()
    assert result.state == "finished" and result.ran == SMALL.trials
    assert [line.split()[3] for line in lines] == ["away;", "back"] * (len(lines) // 2) and lines
    all_measured(store)
    calls = [c for c in evaluator.calls if c[1] == "search"]
    assert len(calls) == len(set(calls))
    store.close()


def test_a_search_ends_with_its_server_where_nobody_waits(postgres: Server, postgres_url: str) -> None:
    store = Store(postgres_url)
    evaluator = FakeEvaluator(trouble=lambda policy, split: postgres.stop("immediate"))
    with pytest.raises(StoreAway, match="Check that it runs"):
        Study(SMALL.model_copy(update={"study": "s"}), store, using(evaluator)).run()
    store.close()


# --- from the start ---


def later(postgres: Server, lines: list[str]) -> Callable[[str], None]:
    """Return what takes a worker's lines, and starts the server at the first of them."""

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            postgres.start()

    return say


def test_a_worker_that_is_started_while_its_server_is_away_waits_for_it(
    postgres: Server, postgres_url: str
) -> None:
    lines: list[str] = []
    with_job = Store(postgres_url)
    queue.submit(with_job, SMALL.model_copy(update={"study": "s"}))
    postgres.stop("immediate")
    store = Store(postgres_url, check=False)
    Worker(store, lambda spec: SETTING, Stopping(), drain=True, say=later(postgres, lines)).run()
    assert lines[0].startswith("the database is away; waiting for it, Ctrl-C or SIGTERM ends the wait: ")
    assert lines[1].startswith("the database is back after ") and lines[-1] == "worker ended"
    all_measured(with_job)
    with_job.close()
    store.close()


def run_worker(url: str, *options: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["autotc", "worker", "--drain", "--storage", url, *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("password", "password authentication failed"), ("database", 'database "nowhere" does not exist')],
)
def test_a_worker_that_the_server_refuses_ends_at_once(
    postgres: Server,
    postgres_url: str,
    wrong: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = postgres_url.replace("autotc:", "autotc:x", 1) if wrong == "password" else postgres.url("nowhere")
    assert run_worker(url, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err
    assert words in said and "Check that it runs, the address, the user and the password." in said
    assert "waiting" not in said


def test_a_worker_waits_no_longer_than_it_is_told(
    postgres: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    postgres.stop("immediate")
    assert run_worker(postgres_url, "--wait", "0.5", monkeypatch=monkeypatch) == 2
    waits, over, end = capsys.readouterr().err.splitlines()
    assert "the database is away; waiting for it" in waits and over.endswith("; no longer waiting")
    assert end.startswith("StoreAway: ") and "Check that it runs" in end
