"""Searches whose workers are Ray actors: the same results, and none lost when an actor's process is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from autotc.errors import DataError, SpecError
from autotc.search import on_ray
from autotc.search._session import Progress
from autotc.search.on_ray import RayStudy, _absolute
from autotc.search.result import Result
from autotc.search.study import Study, open_ledger
from autotc.store import Store
from tests.search import ray_setting
from tests.search.test_study import SETTING, SPEC

SMALL = SPEC.model_copy(update={"trials": 6, "examples": 32, "reducers": ("divprune", "fastv")})


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else it starves while other tests run
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
            object_store_memory=80 * 2**20,
        )
        yield
        ray.shutdown()


def go(
    store: Store, log: Path, seen: list[Progress], delay_s: float = 0.0, lease_s: float = 20.0, **changes: Any
) -> Result:
    spec = SMALL.model_copy(update={"study": "s", "executor": "ray", **changes})
    prepare = partial(ray_setting.prepare, delay_s, str(log))
    return RayStudy(spec, store, prepare(spec), seen.append, lease_s=lease_s, prepare=prepare).run()


def content(store: Store, study: str) -> dict[Any, Any]:
    """Everything that a search found, without ids and times."""
    found: dict[Any, Any] = {}
    for row in store.trials(study):
        shares = {split: store.outcomes(row.id, split) for split in ("search", "selection", "held-out")}
        outcomes = {k: {c: v.tolist() for c, v in part.items()} for k, part in shares.items()}
        kept = [n.model_dump() for n in row.numbers], row.costs, row.violations, row.trace, row.params
        found[row.role, row.number, row.label] = (row.policy.id, row.state, kept, repr(outcomes))
    fronts = [[(m.rank, m.numbers, m.costs) for m in front.members] for front in store.fronts(study)]
    return {"trials": found, "fronts": fronts, "looks": len(store.looks(study, "held-out"))}


def test_the_results_are_the_same_whichever_executor_runs_them(cluster: None, tmp_path: Path) -> None:
    here, there = (Store(f"sqlite:///{tmp_path}/{name}.db") for name in ("process", "ray"))
    alone = Study(SMALL.model_copy(update={"study": "s"}), here, SETTING).run()
    seen: list[Progress] = []
    result = go(there, tmp_path / "log", seen)
    assert content(here, "s") == content(there, "s") and len(content(here, "s")["fronts"]) == 1
    assert (result.state, result.trials, result.split) == (alone.state, alone.trials, alone.split)
    assert [m.policy for m in result.front] == [m.policy for m in alone.front] and result.front
    assert [c.text for c in result.claims] == [c.text for c in alone.claims]
    pids = {int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()}
    assert len(pids) == 1 and os.getpid() not in pids
    assert seen[-1].trials == seen[-1].trials_total == 6 and seen[-1].front >= 1
    assert seen[-1].best_quality is not None
    again = go(there, tmp_path / "other", [])
    assert again.ran == 0 and not (tmp_path / "other").exists()
    for store in (here, there):
        store.close()


def test_an_actor_that_is_killed_is_replaced_and_no_trial_is_lost_or_run_twice(
    cluster: None, tmp_path: Path, postgres_url: str
) -> None:
    store, log = Store(postgres_url), tmp_path / "log"
    killed: list[tuple[int, float]] = []

    def lines() -> list[list[str]]:
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def kill() -> None:
        end = time.monotonic() + 240
        while time.monotonic() < end and not killed:
            pids = {int(line[0]) for line in lines()}
            counts = store.study("s").counts if pids and store.study("s") else {}  # type: ignore[union-attr]
            if len(pids) == 2 and counts.get("complete", 0) >= 2:
                Path(f"{log}.killed").touch()
                killed.append((min(pids), time.time()))
                os.kill(min(pids), signal.SIGKILL)
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    result = go(store, log, [], delay_s=0.15, lease_s=3.0, workers=2, trials=16)
    killer.join()
    assert killed and result.state == "finished" and result.trials == 16
    victim, when = killed[0]
    workers = ray_setting.came(str(log)) - {os.getpid()}
    assert len(workers) == 3, "Ray starts another process in the place of the killed one"
    assert not [line for line in lines() if int(line[0]) == victim and float(line[4]) > when + 1]
    rows = store.trials("s", role="trial")
    assert sorted(r.number or 0 for r in rows) == list(range(16)) and {r.state for r in rows} == {"complete"}
    for row in store.trials("s"):
        n = row.number_of("quality", "search")
        assert n is not None and len(store.outcomes(row.id, "search")["id"]) == n.n
    ledger = open_ledger(store, "s", SMALL)
    told = [t.number for t in ledger.study.get_trials() if t.state.name == "COMPLETE"]
    ledger.close()
    assert sorted(told) == list(range(16))
    # what was evaluated before the kill by whomever is not evaluated again: at most what the victim had in hand
    work = [tuple(line[1:4]) for line in lines()]
    twice = len(work) - len(set(work))
    repeated = {r.policy.id for r in store.trials("s") if r.reason and "answered from the store" in r.reason}
    assert twice <= 1 + len(repeated), (twice, repeated)
    assert len(store.fronts("s")) == 1
    store.close()


def test_what_ends_every_worker_ends_the_search_with_its_reason(cluster: None, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    spec = SMALL.model_copy(update={"study": "s", "executor": "ray", "workers": 2})
    with pytest.raises(DataError, match=r"^/data/my\.jsonl: cannot be read$"):
        RayStudy(spec, store, SETTING, prepare=ray_setting.refuse).run()
    store.close()


def test_a_machine_with_other_data_is_refused(cluster: None, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    prepare = partial(ray_setting.prepare, 0.0, str(tmp_path / "log"))
    study = RayStudy(
        SMALL.model_copy(update={"executor": "ray"}), store, replace(SETTING, data="mine"), prepare=prepare
    )
    with pytest.raises(SpecError, match=r"--executor ray: on .* the data .* differs.*same files"):
        study.run()
    assert not (tmp_path / "log").exists()
    store.close()


def test_without_ray_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        SpecError, match=r"Ray is not installed here. Install it: pip install 'autotc\[ray\]'"
    ):
        on_ray.Cluster(SMALL, "sqlite:///x.db", [])


def test_a_cluster_of_several_machines_cannot_share_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}}] * 2
    monkeypatch.setattr(ray, "nodes", lambda: machines)
    notes: list[str] = []
    many = SMALL.model_copy(update={"workers": 16})
    with pytest.raises(SpecError, match=r"2 machines, which cannot share a SQLite file.*postgresql://"):
        on_ray.Cluster(many, "sqlite:////shared/autotc.db", notes)._place()
    placed = on_ray.Cluster(many, "postgresql://me@db/x", notes)._place()
    assert placed == ({"num_gpus": 1, "num_cpus": 1}, None)
    assert notes == [
        "The Ray cluster has 8 GPUs now: that many of 16 workers run, the others when there is room."
    ]
    slots = on_ray.Cluster(
        many.model_copy(update={"device": "cpu", "workers": 4}), "postgresql://me@db/x", []
    )
    assert slots._place() == ({"num_cpus": 4.0}, 4.0)


def test_rays_logs_show_no_password() -> None:
    spec = SMALL.model_copy(update={"storage": "postgresql://me:hush@db/autotc"})
    member = on_ray.Member(ray_setting.refuse, spec, "s", "/", 0.0, None)
    assert repr(member) == "Member('s')"


def test_actors_get_the_full_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _absolute("sqlite:///autotc.db") == f"sqlite:///{tmp_path}/autotc.db"
    url = "postgresql+psycopg://me:secret@db/autotc"
    assert _absolute(url) == url
