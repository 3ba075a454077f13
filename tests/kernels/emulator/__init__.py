"""Runs the CUDA sources on the CPU: compiled as C++, every CUDA thread a fiber (see device.h)."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotc.kernels import sources

HERE = Path(__file__).parent
DTYPES = (0, 1, 2)
VARIANTS = {"greedy": ("CLUSTER", (1, 4)), "attention": ("HEAD", (32, 80))}
OPTIONS = ("-O1", "-std=c++17", "-shared", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-w")
COMPILER = os.environ.get("CXX") or shutil.which("g++")


def launch(
    like: torch.Tensor,
    source: str,
    kernel: str,
    grid: tuple[int, int, int],
    block: int,
    arguments: tuple[Any, ...],
    shared: int = 0,
    macros: Mapping[str, int] | None = None,
    seed: int = 0,
) -> None:
    """Stand in for `autotc.kernels._cupy.launch`: the same kernel, the same arguments, tensors on the CPU."""
    macro, values = VARIANTS.get(source, ("CLUSTER", (1,)))
    chosen = {"DTYPE": 0, macro: values[0], **(macros or {})}
    held = [_argument(a) for a in arguments]
    pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(a) for a in held))
    function = getattr(_library(source), f"{kernel}_{chosen['DTYPE']}_{chosen[macro]}")
    function.restype = ctypes.c_char_p
    error = function((ctypes.c_uint32 * 3)(*grid), block, shared, seed, pointers, len(held))
    if error is not None:
        raise RuntimeError(f"{kernel}: {error.decode()}")


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ctypes.c_uint64(value.data_ptr())
    if isinstance(value, float | np.float32):
        return ctypes.c_float(value)
    return ctypes.c_int64(0 if value is None else int(value))


@functools.cache
def _library(source: str) -> ctypes.CDLL:
    """Compile a source for the host, all of its variants at once."""
    device = (HERE / "device.h").read_text(encoding="utf-8")
    parts = [(HERE / "runtime.h").read_text(encoding="utf-8").replace("#pragma once\n", "")]
    macro, values = VARIANTS.get(source, ("CLUSTER", (1,)))
    for dtype, value in product(DTYPES, values):
        parts.append(f"#define DTYPE {dtype}\n#define {macro} {value}\nnamespace v{dtype}_{value} {{")
        parts.append(sources.text(source, device=device))
        for name in sources.kernel_names(source):
            parts.append(
                f'extern "C" const char* {name}_{dtype}_{value}(const u32* grid, u32 block, u32 shared, u32 seed, '
                f"void** arguments, u32 many) {{ return emulator::launch(CLUSTER, {name}, grid, block, shared, seed, "
                "arguments, many); }"
            )
        parts.append("}\n#undef DTYPE\n#undef CLUSTER\n#undef HEAD")
    text = "\n".join(parts)
    folder = Path(tempfile.gettempdir()) / f"autotc-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    key = hashlib.sha256("\n".join([text, *OPTIONS]).encode()).hexdigest()[:16]
    target = folder / f"{source}-{key}.so"
    if not target.exists():
        assert COMPILER is not None
        made = folder / f"{source}-{key}-{os.getpid()}.so"
        command = [COMPILER, *OPTIONS, "-x", "c++", "-", "-o", str(made)]
        subprocess.run(command, input=text, text=True, check=True)
        made.replace(target)
    return ctypes.CDLL(str(target))
