"""What runs on a machine with a GPU needs torch, transformers, numpy, CuPy and what the Makefile names."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
THERE = ("torch", "transformers", "numpy")
SCRIPT = """
import importlib, pkgutil, sys, warnings
from importlib.machinery import PathFinder

hidden = set(sys.argv[1].split(","))

class Rest(PathFinder):  # as if the hidden packages were not installed
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[:] = [Rest if finder is PathFinder else finder for finder in sys.meta_path]
warnings.simplefilter("ignore")
import autotc.device, autotc.kernels
for package in (autotc.device, autotc.kernels):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.name.endswith("._triton"):
            importlib.import_module(module.name)
import pytest, tests.conftest, tests.device.test_gpu, tests.kernels.test_gpu
from autotc.cli import main
for line in sys.argv[2:]:
    sys.argv = ["autotc", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
"""


def makefile(name: str) -> list[str]:
    found = re.search(rf"^{name} +\?= (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert found, name
    return found[1].split()


def closure(names: list[str]) -> set[str]:
    """Return the distributions that these need, without extras."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        requirements = map(Requirement, needs)
        left += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def test_the_gpu_commands_import_nothing_that_the_makefile_does_not_name(tmp_path: Path) -> None:
    """The commands and tests of `make gpu-test gpu-bench`, on a CPU, with every other package hidden."""
    distributions = closure([*THERE, *makefile("GPU_WHEELS"), *makefile("GPU_ALONE")])
    hidden = {
        top
        for top, owners in importlib.metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in {*distributions, "autotc"} for owner in owners)
    }
    assert {"sqlalchemy", "optuna", "PIL", "plotly", "streamlit", "hypothesis"} <= hidden
    table = tmp_path / "cpu-not-a-gpu.json"
    lines = [
        "list kernels",
        f"bench kernels --device cpu --operation gather_rows --repeats 3 --out {tmp_path}/kernels.csv",
        f"bench device --device cpu --repeats 3 --out {tmp_path}",
        f"bench serving --device cpu --check --repeats 3 --table {table} --out {tmp_path}/serving.json",
    ]
    command = [sys.executable, "-c", SCRIPT, ",".join(sorted(hidden)), *lines]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("kernels.csv", table.name, "serving.json"):
        assert (tmp_path / name).stat().st_size > 100
