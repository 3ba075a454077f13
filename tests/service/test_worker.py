"""Workers: what they take up, share, hand back and survive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from autotc._process import ProcessLost
from autotc.errors import DataError, SpecError, StoreAway, StoreError
from autotc.policy import Policy
from autotc.search import _loop
from autotc.search._ledger import Ledger
from autotc.search.setting import Setting
from autotc.search.spec import SearchSpec
from autotc.search.study import open_ledger
from autotc.search.team import TeamStudy
from autotc.service import queue
from autotc.service.roots import Roots
from autotc.service.stopping import TWICE_S, Stopping
from autotc.service.worker import Reaper, Worker
from autotc.store import Store
from autotc.store.engine import away
from autotc.store.reader import Reader
from tests.fakes import FakeEvaluator
from tests.search.test_study import SETTING
from tests.service.conftest import SMALL

ROOT = Path(__file__).parents[2]


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/empty.db")
    yield store
    store.close()


@pytest.fixture
def anywhere(database_url: str) -> Iterator[Store]:
    """An empty database of each kind, for what workers say to one another through it."""
    store = Store(database_url)
    yield store
    store.close()


def using(evaluator: FakeEvaluator) -> Setting:
    return replace(SETTING, evaluator=lambda workers: evaluator)


def work(store: Store, setting: Setting = SETTING, lines: list[str] | None = None, **options: Any) -> None:
    say = (lines if lines is not None else []).append
    Worker(store, lambda spec: setting, Stopping(), say=say, **{"drain": True, **options}).run()


def whole(store: Store, study: str, trials: int) -> None:
    """A finished study has every trial once, stored and told alike."""
    row = store.study(study)
    assert row is not None and row.state == "finished" and sum(row.counts.values()) == trials
    rows = {r.number: r for r in store.trials(study, role="trial")}
    assert sorted(n for n in rows if n is not None) == list(range(trials))
    ledger = open_ledger(store, study, SMALL)
    told = {t.number: t for t in ledger.study.get_trials() if t.state.name == "COMPLETE"}
    ledger.close()
    assert told.keys() == rows.keys()
    for number, r in rows.items():
        quality = r.number_of("quality", "search")
        assert quality is None or told[number or 0].values[1] == r.costs["tflops_exact"]
    assert len(store.fronts(study)) == 1


def test_queued_searches_are_run_to_their_fronts(empty: Store) -> None:
    for name in ("one", "two"):
        queue.submit(empty, SMALL.model_copy(update={"study": name}))
    lines: list[str] = []
    work(empty, lines=lines)
    assert [(j.state, j.study) for j in empty.jobs()] == [("finished", "one"), ("finished", "two")]
    whole(empty, "one", SMALL.trials)
    whole(empty, "two", SMALL.trials)
    assert "job 1: finished" in lines and any(x.startswith("one: trials 4/4, front ") for x in lines)


def test_several_workers_share_a_search(anywhere: Store) -> None:
    queue.submit(anywhere, SMALL.model_copy(update={"study": "s", "trials": 8}))
    evaluators = [FakeEvaluator(delay_s=0.01) for _ in range(3)]
    url = anywhere.url

    def one(evaluator: FakeEvaluator) -> None:
        store = Store(url)
        work(store, using(evaluator))
        store.close()

    threads = [threading.Thread(target=one, args=(e,)) for e in evaluators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole(anywhere, "s", 8)
    calls = [c for e in evaluators for c in e.calls]
    assert all(e.calls for e in evaluators)
    # nothing was evaluated twice: the same policy may come up again as a proposal, which is answered from the store
    references = {r.policy.id for r in anywhere.trials("s", role="reference")}
    measured = [c for c in calls if c[1] == "search" and c[0] in references]
    assert len(measured) == len(set(measured))


def test_a_search_that_cannot_run_fails_with_its_reason_and_the_next_one_runs(empty: Store) -> None:
    queue.submit(empty, SMALL.model_copy(update={"study": "bad"}))
    queue.submit(empty, SMALL.model_copy(update={"study": "good"}))

    def prepare(spec: SearchSpec) -> Setting:
        if spec.study == "bad":
            raise DataError("/data/my.jsonl: cannot be read")
        return SETTING

    Worker(empty, prepare, Stopping(), drain=True, say=lambda line: None).run()
    bad, good = empty.jobs()
    assert (bad.state, bad.reason) == ("failed", "DataError: /data/my.jsonl: cannot be read")
    assert good.state == "finished"


def test_a_search_from_the_network_keeps_to_the_roots_of_the_worker(empty: Store, roots: Roots) -> None:
    allowed = roots.data("my.jsonl")
    for data in (allowed, str(roots.datas[0].parent / "outside/secret.jsonl")):
        empty.add_job({**queue._asked(SMALL), "data": data, "study": "s"}, submitted_by="somebody")
    work(empty, roots=roots)
    assert [(j.state, j.reason) for j in empty.jobs()] == [
        ("finished", None),
        ("failed", "SpecError: data: not a file below a --data-root"),
    ]


def test_a_stopped_search_ends_after_the_trial_in_hand(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotc.service.worker.LOOK_S", 0.0)
    job = queue.submit(empty, SMALL.model_copy(update={"study": "s", "trials": 50}))
    trials = Count(lambda: empty.stop_job(job.id), at=18)
    work(empty, using(FakeEvaluator(trouble=trials)))
    stopped, study = empty.jobs()[0], empty.study("s")
    assert stopped.state == "stopped" and study is not None and study.state == "interrupted"
    assert study.counts == {"complete": 3}  # 15 references, and three trials with the one in hand


class Count:
    """Does something at a certain evaluation."""

    def __init__(self, do: Callable[[], Any], at: int, last: int | None = None) -> None:
        self.do, self.at, self.last, self.n = do, at, at if last is None else last, 0

    def __call__(self, policy: Policy | None, split: str) -> None:
        self.n += 1
        if self.at <= self.n <= self.last:
            self.do()


def lost() -> None:
    raise ProcessLost("the evaluation process ended with code -11")


def test_a_trial_whose_process_is_lost_twice_is_run_again(empty: Store) -> None:
    queue.submit(empty, SMALL.model_copy(update={"study": "s"}))
    work(empty, using(FakeEvaluator(trouble=Count(lost, 17, 18))))
    whole(empty, "s", SMALL.trials)
    assert {r.state for r in empty.trials("s")} == {"complete"}


def test_a_trial_that_ends_three_processes_is_left_alone_with_its_reason(empty: Store) -> None:
    queue.submit(empty, SMALL.model_copy(update={"study": "s"}))
    evaluator = FakeEvaluator(trouble=Count(lost, 17, 19))
    work(empty, using(evaluator))
    (failed,) = empty.trials("s", state="failed")
    assert failed.reason is not None and failed.violations["failed"] == 1.0
    assert "ended 3 times on this trial, which is left alone" in failed.reason and "code -11" in failed.reason
    whole(empty, "s", SMALL.trials)


def test_no_transaction_is_open_while_a_model_runs(anywhere: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Ledger] = []
    made = Ledger.__init__

    def remember(self: Ledger, *args: Any) -> None:
        made(self, *args)
        opened.append(self)

    monkeypatch.setattr(Ledger, "__init__", remember)
    in_use: set[tuple[int, int]] = set()

    def look(policy: Policy | None, split: str) -> None:
        in_use.add((anywhere.engine.pool.checkedout(), opened[0]._storage.engine.pool.checkedout()))  # type: ignore[attr-defined]

    queue.submit(anywhere, SMALL.model_copy(update={"study": "s"}))
    work(anywhere, using(FakeEvaluator(trouble=look)), lease_s=1000.0)
    assert in_use == {(0, 0)}


def left_running(store: Store) -> int:
    return store.add_trial("done", 99, store.trials("done", role="trial")[0].policy)


def test_a_reaper_returns_dead_leases_without_anybody_asking(store: Store) -> None:
    trial = left_running(store)
    assert store.lease(trial, "dead", 0.05)
    found: list[str] = []
    there = threading.Event()
    with Reaper(store, 0.02, lambda lease: (found.append(lease.worker), there.set())):  # type: ignore[func-returns-value]
        assert there.wait(20)
    assert found == ["dead"] and store.lease(trial, "other", 1)


def test_two_reapers_share_one_dead_lease(store: Store) -> None:
    assert store.lease(left_running(store), "dead", -1)
    found: list[str] = []
    again = Store(store.url)
    for reaper in (store, again):
        found += [lease.worker for lease in reaper.reap()]
    again.close()
    assert found == ["dead"]


@pytest.mark.parametrize("first", ["the late one", "the other one"])
def test_the_result_that_comes_first_counts(
    anywhere: Store, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker freezes past its lease in trial 1; another takes the trial up and is, or is not, done when it wakes."""
    spec = SMALL.model_copy(update={"study": "s", "examples": 32})
    evaluator = FakeEvaluator()
    late = TeamStudy(spec, anywhere, using(evaluator), lease_s=20.0, worker="late")
    other = TeamStudy(spec, anywhere, using(FakeEvaluator(noise=0.3)), lease_s=20.0, worker="other")
    finish = Store.finish_trial
    at: list[int] = []

    def frozen(self: Store, trial_id: int, *args: Any, **done: Any) -> bool:
        if late_thread == threading.get_ident() and not at and self.trial(trial_id).number == 1:
            at.append(trial_id)
            self.release(trial_id, "late")  # as a reaper does it
            if first == "the other one":
                monkeypatch.setattr(_loop, "POLL_S", 0.01)
                other.work()
            else:
                assert self.lease(trial_id, "other", 20.0)
        return finish(self, trial_id, *args, **done)

    late_thread = threading.get_ident()
    monkeypatch.setattr(Store, "finish_trial", frozen)
    if first == "the other one":
        # within one thread: what the other one stores goes through at once
        assert late.work() is True
    else:
        assert late.work() is True
        assert not anywhere.renew(at[0], "other", 1.0)  # the trial is over, and so is every lease on it
    assert at
    whole(anywhere, "s", SMALL.trials)


def test_results_wait_for_a_database_that_is_away(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotc.search._patience.LONGEST_PAUSE_S", 0.01)
    queue.submit(empty, SMALL.model_copy(update={"study": "s"}))
    evaluator = FakeEvaluator()
    away_for = {"finish_trial": 3, "trials": 2, "jobs": 1}
    for name in away_for:
        monkeypatch.setattr(Store, name, flaky(getattr(Store, name), name, away_for, after=6))
    lines: list[str] = []
    work(empty, using(evaluator), lines)
    assert set(away_for.values()) == {0}
    said = [line.split()[3] for line in lines if line.startswith("the database is ")]
    assert 3 <= len(said) / 2 <= 6 and said == ["away;", "back"] * (len(said) // 2)
    whole(empty, "s", SMALL.trials)
    calls = [c for c in evaluator.calls if c[1] == "search"]
    assert len(calls) == len(set(calls))  # nothing had to be run again


def flaky(method: Any, name: str, away_for: dict[str, int], after: int) -> Any:
    calls = 0

    def call(self: Store, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > (0 if name == "jobs" else after) and away_for[name]:
            away_for[name] -= 1
            raise StoreAway("the server closed the connection unexpectedly")
        return method(self, *args, **options)

    return call


def test_which_errors_pass_by_themselves() -> None:
    locked = type("E", (Exception,), {"sqlite_errorname": "SQLITE_BUSY"})()
    broken = type("E", (Exception,), {"sqlite_errorname": "SQLITE_CORRUPT"})()
    refused = Exception("connection refused")
    assert away(OperationalError("", {}, locked)) and away(OperationalError("", {}, refused))
    assert not away(OperationalError("", {}, broken)) and not away(None) and not away(StoreError("x"))


def test_a_study_that_autotc_search_started_can_be_helped(empty: Store) -> None:
    team = TeamStudy(SMALL.model_copy(update={"study": "s", "trials": 2}), empty, SETTING)
    assert team.work()
    team.rest()
    row = empty.study("s")
    assert row is not None
    assert SearchSpec.from_document(row.spec).model_copy(update={"workers": 1}) == SMALL.model_copy(
        update={"study": "s", "trials": 2}
    )
    work(empty, study="s", drain=False)
    with pytest.raises(SpecError, match=r"no study and no queued search 'x'"):
        work(empty, study="x", drain=False)


def spawned(url: str, delay_s: float, grace_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.service.worker_process", url, str(delay_s), str(grace_s)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until_trial(store: Store, process: subprocess.Popen[str]) -> None:
    """Wait until the worker has a trial in hand."""
    end, reader = time.monotonic() + 120, Reader(store.url)
    while process.poll() is None and time.monotonic() < end:
        if reader.work():
            reader.close()
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[0])


@pytest.mark.parametrize(("delay_s", "signals", "code"), [(60.0, 2, 130), (60.0, 1, 0), (0.5, 1, 0)])
def test_sigterm_finishes_or_hands_back_and_a_second_one_stops_at_once(
    empty: Store, delay_s: float, signals: int, code: int
) -> None:
    queue.submit(empty, SMALL.model_copy(update={"study": "s"}))
    process = spawned(empty.url, delay_s, 1000.0 if signals == 2 or delay_s < 1 else 0.3)
    until_trial(empty, process)
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.stdout is not None
    seen = ""
    if signals == 2:
        while "Stopping" not in seen:
            seen += process.stdout.readline()
        os.kill(process.pid, signal.SIGTERM)  # the same signal, delivered twice, is one
        time.sleep(TWICE_S + 0.2)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGTERM)
    said = seen + process.communicate(timeout=50)[0]
    assert process.returncode == code and time.monotonic() - begin < 50, said
    assert ("the trial in hand was handed back" in said) == (delay_s > 1 and signals == 1), said
    finished = [r for r in empty.trials("s") if r.state == "complete"]
    assert bool(finished) == (delay_s < 1)
    # nothing is held any more: whoever comes next goes on at once
    assert all(empty.lease(r.id, "next", 1.0) for r in empty.trials("s") if r.state == "running")
    assert empty.jobs()[0].state == "running"


def test_nobody_takes_a_trial_that_is_over(store: Store) -> None:
    assert not store.lease(store.trials("done", role="trial")[0].id, "late", 1.0)
    assert Reader(store.url).work() == []


def test_a_study_that_ended_in_this_moment_stays_ended(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that found it open a moment ago must not open it again: nobody might be left to end it."""
    spec = SMALL.model_copy(update={"study": "s"})
    first, second = (TeamStudy(spec, empty, SETTING, worker=name) for name in ("first", "second"))
    look = Store.study

    def meanwhile(self: Store, name: str) -> Any:
        found = look(self, name)
        looks.append(found)
        if len(looks) == 2:  # of the second worker, the one that it acts upon
            assert first.work()
        return found

    looks: list[Any] = []
    monkeypatch.setattr(Store, "study", meanwhile)
    assert second.work() is False
    study = look(empty, "s")
    assert study is not None and study.state == "finished"
    assert second.work() is True
