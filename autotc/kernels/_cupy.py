"""Launches the CUDA sources through CuPy; the only file that imports it, and only when a CUDA tensor arrives."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from autotc.kernels import sources

NEEDS = (8, 0)  # warp reductions and matrix instructions for bfloat16
_MISSING = "CuPy is not installed; pip install 'autotc[gpu-cu{major}]'"


@functools.cache
def why_not(device: int) -> str | None:
    """Return why kernels cannot run on a CUDA device, in one line; None when they can."""
    major = str(torch.version.cuda).partition(".")[0]
    capability = torch.cuda.get_device_capability(device)
    if capability < NEEDS:
        return f"compute capability {capability[0]}.{capability[1]} is below {NEEDS[0]}.{NEEDS[1]}"
    try:
        import cupy
    except ModuleNotFoundError as error:
        return _MISSING.format(major=major) if error.name == "cupy" else f"CuPy cannot be imported: {error}"
    except ImportError as error:  # its libraries do not load: built for another CUDA than is here
        return f"CuPy cannot be imported: {str(error).strip().splitlines()[0]}"
    theirs = cupy.cuda.runtime.runtimeGetVersion() // 1000
    if str(theirs) != major:
        return f"CuPy is built for CUDA {theirs}, torch for CUDA {major}; pip install 'autotc[gpu-cu{major}]'"
    if int(cupy.__version__.partition(".")[0]) < 14:
        return f"CuPy {cupy.__version__} is older than 14"
    try:
        launch_on(device, "rows", "best_match", (0, 0, 0), 32, ())
    except Exception as error:  # whatever the compiler or driver says: it is a reason, not a crash
        return f"CuPy cannot compile for this GPU: {str(error).strip().splitlines()[0]}"
    return None


_reserved: dict[tuple[Any, ...], int] = {}


class _Stream:
    """Torch's stream by the protocol that CuPy reads."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


def launch_on(
    device: int,
    source: str,
    kernel: str,
    grid: tuple[int, int, int],
    block: int,
    arguments: Sequence[Any],
    shared: int = 0,
    macros: Mapping[str, int] | None = None,
) -> None:
    """Launch a kernel on torch's current stream of a device; an empty grid only compiles it."""
    import cupy

    key = (device, source, kernel, tuple(sorted((macros or {}).items())))
    stream = _Stream(torch.cuda.current_stream(device).cuda_stream)
    with cupy.cuda.Device(device), cupy.cuda.Stream.from_external(stream):
        function = _function(*key)
        if shared > _reserved.get(key, 48 << 10):  # beyond 48 KiB a kernel asks for its shared memory first
            function.max_dynamic_shared_size_bytes = shared
            _reserved[key] = shared
        if 0 not in grid:
            function(grid, (block, 1, 1), tuple(arguments), shared_mem=shared)


@functools.cache
def _function(device: int, source: str, kernel: str, macros: tuple[tuple[str, int], ...]) -> Any:
    import cupy

    options = ("--std=c++17", *(f"-D{name}={value}" for name, value in macros))
    return cupy.RawModule(code=sources.text(source), options=options, backend="nvrtc").get_function(kernel)


def launch(like: torch.Tensor, source: str, kernel: str, *args: Any, **options: Any) -> None:
    """Launch a kernel on the device of a tensor; see `launch_on`. Tensors among the arguments go by address."""
    grid, block, arguments = args
    packed = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
    packed = [0 if a is None else np.float32(a) if isinstance(a, float) else a for a in packed]
    launch_on(like.device.index, source, kernel, grid, block, packed, **options)


def clusters(like: torch.Tensor) -> int:
    """Return how many blocks can work together on one sequence on the device of a tensor."""
    return 8 if torch.cuda.get_device_capability(like.device) >= (9, 0) else 1
