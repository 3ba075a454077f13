"""Evaluation processes that end in the middle of a trial: by a wrong address, killed, out of memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from autotc import _process
from autotc._process import EvaluatorProcess
from tests.chaos import deadly
from tests.chaos.fleet import Fleet
from tests.search.test_study import SETTING
from tests.service.conftest import SMALL


def deadly_children() -> None:
    """Let the evaluation processes of this worker run a model that ends some of them."""
    _process.CHILD = "from tests.chaos.deadly import serve; serve()"


def test_a_trial_outlives_its_processes_and_three_deaths_are_enough(
    tmp_path: Path, fleets: Callable[..., Fleet], much: Callable[[int, int], int]
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    make = partial(EvaluatorProcess, marks, None, processes=1, batch=1)
    orders = {"faults": (deadly_children,), "evaluator": make, "lease_s": 20.0}
    fleet = fleets(f"sqlite:///{tmp_path}/chaos.db", **orders)
    fleet.submit(SMALL.model_copy(update={"study": "s", "trials": much(60, 6)}))
    fleet.start(2)
    fleet.finish()
    met, found = deadly.met(marks), {}
    for row in fleet.store.trials("s"):
        if row.policy.stages:
            what = deadly.kind(met[row.policy.for_model(SETTING.evaluated).id])
            found.setdefault(what, []).append(row)
    states = {what: {row.state for row in rows} for what, rows in found.items()}
    assert states == {"fine": {"complete"}, "once": {"complete"}, "always": {"failed"}, "memory": {"failed"}}
    for row in found["always"]:
        assert "ended 3 times on this trial, which is left alone from now on" in row.reason
    assert all("MemoryError" in row.reason for row in found["memory"])
    assert all(row.violations["failed"] == 1.0 for row in found["always"] + found["memory"])
    fleet.counts["evaluation processes ended"] += len(found["once"]) + 3 * len(found["always"])
    fleet.counts["evaluations out of memory"] += len(found["memory"])
