"""How long pages take on 10,000 trials: the pages' own scripts, run as the server runs them, without a browser."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autotc.pareto import non_dominated
from autotc.store.sample import fill

APP = Path(__file__).parent / "app.py"
STUDIES, TRIALS = 20, 500
# seconds that a step may take
BARS = {
    "first page, cold": 3.0,
    "first page, warm": 1.0,
    "first page, same visitor": 1.0,
    "moving the budget slider": 0.3,
    "front of 10,000 x 3": 0.2,
}


def run(repeats: int = 5) -> dict[str, Any]:
    """Return wall and processor seconds of each step, medians of the repeats (a cold one is timed once).

    Returns:
        {"studies", "trials", "load_before", "load_after", "cores", "steps": [{"step", "seconds", "cpu_seconds",
        "bar_seconds", "repeats"}]}.
    """
    from streamlit.testing.v1 import AppTest

    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTOTC_STORAGE"] = url = f"sqlite:///{folder}/autotc.db"
        fill(url, [TRIALS] * STUDIES)
        page = AppTest.from_file(str(APP), default_timeout=600)
        steps = [_timed("first page, cold", page.run, 1), _timed("first page, warm", page.run, repeats)]
        front = AppTest.from_file(str(APP), default_timeout=600).switch_page("views/front.py")
        steps.append(_timed("front page, cold", front.run, 1))
        slider = front.slider(key="budget")
        limits = iter(np.linspace(slider.min + 60, slider.max, repeats).astype(int).tolist())
        steps.append(
            _timed(
                "moving the budget slider",
                lambda: front.slider(key="budget").set_value(next(limits)).run(),
                repeats,
            )
        )
        points = np.random.default_rng(0).random((10_000, 3))
        hard = points / points.sum(axis=1, keepdims=True)  # all of them on the front
        steps.append(_timed("front of 10,000 x 3", lambda: non_dominated(hard), repeats))
    return {"studies": STUDIES, "trials": STUDIES * TRIALS, **load(before), "steps": steps}


def load(before: float) -> dict[str, float | int | None]:
    """Return how busy the machine was, processes that want to run in the mean of a minute, and its cores."""
    return {"load_before": before, "load_after": os.getloadavg()[0], "cores": os.cpu_count()}


def _timed(step: str, call: Callable[[], Any], repeats: int) -> dict[str, Any]:
    wall, processor = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    return {
        "step": step,
        "seconds": float(np.median(wall)),
        "cpu_seconds": float(np.median(processor)),
        "bar_seconds": BARS.get(step),
        "repeats": repeats,
    }
