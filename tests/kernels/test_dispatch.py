"""Which implementation runs, and the one line that says why not the other."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest
import torch

from autotc import kernels
from autotc.errors import SpecError, UnsupportedError
from autotc.kernels import _cupy, dispatch

X, SIZE, TARGET = torch.ones(1, 2, 3), torch.ones(1, 2), torch.tensor([[1, 1]])


def test_nothing_imports_cupy_for_cpu_tensors() -> None:
    script = (
        "import sys, torch\nfrom autotc import kernels\nfrom autotc.reducer import reducers\nreducers.all()\n"
        "kernels.bipartite_merge(torch.ones(1, 2, 3), torch.ones(1, 2), torch.tensor([[1, 1]]))\n"
        "assert 'cupy' not in sys.modules and 'autotc.kernels._cupy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, "cuda")
    with pytest.raises(UnsupportedError, match="the tensor is on cpu"):
        kernels.bipartite_merge(X, SIZE, TARGET)
    with kernels.use("reference"):
        assert float(kernels.bipartite_merge(X, SIZE, TARGET)[1][0, 1]) == 2.0
    monkeypatch.setenv(dispatch.VARIABLE, "cuad")
    with pytest.raises(SpecError, match=r"unknown choice 'cuad'\. Did you mean 'cuda'"):
        kernels.bipartite_merge(X, SIZE, TARGET)
    with pytest.raises(SpecError, match="unknown choice"), kernels.use("gpu"):
        pass
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    assert {row["used"] for row in dispatch.listing()} == {"reference"}


def test_a_type_that_no_kernel_knows_goes_to_the_reference() -> None:
    class OnGpu:
        is_cuda, dtype, device = True, torch.float64, torch.device("cuda", 0)

    assert "float64 is not float32" in (dispatch.why_not(OnGpu()) or "")  # type: ignore[arg-type]


def fake_cupy(**changes: Any) -> types.ModuleType:
    module = types.ModuleType("cupy")
    values: dict[str, Any] = {"version": "14.2.0", "runtime": 13020, "compile": None, **changes}
    module.__version__ = values["version"]  # type: ignore[attr-defined]
    runtime = types.SimpleNamespace(runtimeGetVersion=lambda: values["runtime"])
    module.cuda = types.SimpleNamespace(runtime=runtime)  # type: ignore[attr-defined]
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with a GPU, as far as the questions go that come before a launch."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setattr(_cupy, "launch_on", lambda *args: None)
    return monkeypatch


def reason() -> str | None:
    return _cupy.why_not.__wrapped__(0)


def test_reasons_not_to_use_cuda_are_one_line_each(gpu: pytest.MonkeyPatch) -> None:
    assert reason() is None

    def refuse(*args: Any) -> None:
        raise RuntimeError("nvrtc: error: invalid value\nand much more")

    with gpu.context() as broken:
        broken.setattr(_cupy, "launch_on", refuse)
        assert reason() == "CuPy cannot compile for this GPU: nvrtc: error: invalid value"
    with gpu.context() as old:
        old.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert reason() == "compute capability 7.5 is below 8.0"
    with gpu.context() as other:
        other.setitem(sys.modules, "cupy", fake_cupy(runtime=12090))
        assert reason() == "CuPy is built for CUDA 12, torch for CUDA 13; pip install 'autotc[gpu-cu13]'"
    with gpu.context() as older:
        older.setitem(sys.modules, "cupy", fake_cupy(version="13.4.0"))
        assert reason() == "CuPy 13.4.0 is older than 14"
    with gpu.context() as missing:
        missing.setitem(sys.modules, "cupy", None)  # as if it were not there
        assert reason() == "CuPy is not installed; pip install 'autotc[gpu-cu13]'"


def test_auto_says_once_why_it_does_not_use_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        is_cuda, dtype, device = True, torch.float32, torch.device("cuda", 0)

    monkeypatch.setattr(dispatch, "why_not", lambda tensor: "a reason of this test")
    with pytest.warns(UserWarning, match="plain PyTorch on this GPU: a reason of this test"):
        assert dispatch.backend(OnGpu()) == "reference"  # type: ignore[arg-type]
    assert dispatch.backend(OnGpu()) == "reference"  # type: ignore[arg-type]  # warnings are errors here
