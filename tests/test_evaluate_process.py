"""The evaluator in a child process: same figures, errors as errors, a new child after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotc._outcomes import COLUMNS
from autotc._process import EvaluatorProcess, ProcessLost, _Child, _described, share, shared_cores
from autotc.errors import DataError, PolicyError
from autotc.evaluate import Evaluator
from tests.evaluate_fixtures import Deadly, Toy, policy, qwen_folder

ROOT = Path(__file__).parents[1]


def gone(pid: int, patience_s: float = 20.0) -> bool:
    """Whether a process ends within some time; one that nobody waited for counts as ended."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_child_gives_the_same_figures_and_is_replaced_when_it_is_lost() -> None:
    folder, task = qwen_folder(), Deadly(images=2)
    chosen = policy(folder, ("projector", None, "random", 0.5))
    here = Evaluator(folder, task, threads=1, on="tiny").evaluate(chosen, "search", 4)
    with EvaluatorProcess(folder, task, threads=1, on="tiny") as there:
        found = there.evaluate(chosen, "search", 4)
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(here, name), getattr(found, name), err_msg=name)
        assert "quality" in [x.name for x in there.numbers(found)]
        wrong = chosen.model_copy(update={"model": chosen.model.model_copy(update={"decoder_layers": 28})})
        with pytest.raises(PolicyError, match="28 decoder layers"):
            there.evaluate(wrong, "search", 4)
        first = there.pids
        assert len(first) == 1
        with pytest.raises(ProcessLost, match="code 7"):
            there.evaluate(chosen, "search", Deadly.at)
        assert len(there.evaluate(chosen, "search", 2)) == 2
        second = there.pids
        assert len(second) == 1 and second != first
    assert there.pids == [] and gone(second[0])


@pytest.mark.slow
def test_children_that_share_the_examples_give_the_same_figures() -> None:
    folder, task = qwen_folder(), Toy(images=5)
    chosen = policy(folder, ("decoder", 2, "fastv", 0.5))
    here = Evaluator(folder, task, batch=4, on="tiny").evaluate(chosen, "search", 9, start=1)
    with EvaluatorProcess(folder, task, processes=2, batch=4, on="tiny") as there:
        found = there.evaluate(chosen, "search", 9, start=1)
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(here, name), getattr(found, name), err_msg=name)
        assert found.trace[0] == pytest.approx(here.trace[0])
        assert len(there.evaluate(chosen, "search", 99)) == 10
        with pytest.raises(DataError, match="no example number 10"):
            there.evaluate(chosen, "search", 4, start=10)


def test_small_models_run_once_a_core_and_large_ones_once(tmp_path: Path) -> None:
    assert shared_cores(qwen_folder(), 2) == {"processes": 2, "threads": 1}
    assert shared_cores(qwen_folder(), 64) == {"processes": 4, "threads": 1}
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1 << 30)  # a hole: takes no room
    assert shared_cores(tmp_path, 8) == {"processes": 1, "threads": 8}


def test_pieces_follow_the_grid_and_always_meet_the_same_process() -> None:
    assert share(0, 10, 4, 2) == [[(0, 4), (8, 2)], [(4, 4)]]
    assert share(6, 3, 4, 2) == [[(8, 1)], [(6, 2)]]
    assert share(4, 4, 4, 2) == [[], [(4, 4)]]
    assert share(0, 8, 4, 1) == [[(0, 4), (4, 4)]]
    assert share(3, 0, 4, 2) == [[(3, 0)]]


@pytest.mark.slow
def test_the_child_dies_with_its_parent() -> None:
    script = (
        "import sys, time\n"
        "from autotc._process import EvaluatorProcess\n"
        "from tests.evaluate_fixtures import Toy\n"
        "there = EvaluatorProcess('nowhere', Toy())\n"
        "there._children[0]._started()\n"
        "print(there.pids[0], flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        assert gone(child, 60.0)


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    full = RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")
    assert _described(full)["memory"] and _described(MemoryError())["memory"]
    other = _described(ValueError("no"))
    assert not other["memory"] and other["text"] == "ValueError: no" and other["error"] is None
    assert isinstance(_described(PolicyError("x"))["error"], PolicyError)


@pytest.mark.slow
def test_batches_are_halved_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, task = qwen_folder(), Toy(images=4)
    chosen = policy(folder, ("projector", None, "uniform", 0.5))
    asked: list[tuple[int, int]] = []
    ask = _Child.ask

    def scarce(self: _Child, request: Any) -> Any:
        asked.append((self._work[2]["batch"], len(request[2])))
        if self._work[2]["batch"] > 2:
            raise MemoryError("DefaultCPUAllocator: can't allocate memory")
        return ask(self, request)

    with EvaluatorProcess(folder, task, threads=1, on="tiny", batch=8) as evaluator:
        whole = evaluator.evaluate(chosen, "search", 8)
    monkeypatch.setattr(_Child, "ask", scarce)
    with EvaluatorProcess(folder, task, threads=1, on="tiny", batch=8) as evaluator:
        found = evaluator.evaluate(chosen, "search", 8)
        assert asked == [(8, 1), (4, 2), (2, 4)]
        evaluator.evaluate(chosen, "search", 2)
        assert asked[-1] == (2, 1)
    assert found.id.tolist() == whole.id.tolist()
    for name in ("correct", "full", "blind", "agreement", "kl", "next_correct"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), atol=1e-6, err_msg=name)
    monkeypatch.setattr(_Child, "ask", lambda self, request: (_ for _ in ()).throw(MemoryError("always")))
    with (
        EvaluatorProcess(folder, task, threads=1, on="tiny", batch=8) as evaluator,
        pytest.raises(MemoryError, match="always"),
    ):
        evaluator.evaluate(chosen, "search", 8)
