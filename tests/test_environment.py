"""What a run is made with: versions and machine, in data and in words."""

from __future__ import annotations

import platform
from importlib.metadata import version

from autotc import __version__
from autotc.environment import described, environment, grouped

HERE = {
    "autotc": "0.1.0",
    "python": "3.12.1",
    "torch": "2.13.0",
    "transformers": "5.17.0",
    "optuna": "5.0.0",
    "cpu": "AMD EPYC 9654",
    "cores": 16,
    "gpu": ["NVIDIA H200", "NVIDIA H200"],
}


def test_it_names_the_versions_that_run_and_this_machine() -> None:
    found = environment()
    assert (found["autotc"], found["python"]) == (__version__, platform.python_version())
    assert all(found[name] == version(name) for name in ("torch", "transformers", "optuna"))
    assert found["cpu"] and found["cores"] >= 1 and isinstance(found["gpu"], list)


def test_it_is_written_in_one_line() -> None:
    assert described(HERE) == (
        "autotc 0.1.0, Python 3.12.1, torch 2.13.0, transformers 5.17.0, optuna 5.0.0; AMD EPYC 9654, 16 cores, "
        "2 x NVIDIA H200"
    )
    assert described({**HERE, "cores": 1, "gpu": []}).endswith("AMD EPYC 9654, 1 core, no GPU")
    assert described(None) == described({}) == "not recorded"


def test_different_ones_are_counted() -> None:
    assert grouped([None, HERE, HERE, {**HERE}]) == [(described(HERE), 3), ("not recorded", 1)]
