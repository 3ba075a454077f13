"""Triton versions against the references: in Triton's interpreter, and compiled for a card; neither needs one."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
import torch

from autotc.kernels import bench
from autotc.kernels.cases import cases
from autotc.kernels.dispatch import OPERATIONS
from tests.kernels.test_cuda_sources import TYPES, compare

needed = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed; it comes with torch on a machine with a GPU",
)


def check() -> None:
    """Compare every small case of every type."""
    versions, count = importlib.import_module("autotc.kernels._triton"), 0
    for case in cases():
        for dtype in TYPES.values() if case.typed else [torch.float32]:
            # the interpreter multiplies matrices of bfloat16 as if their bits were integers
            product = case.operation == "attention_received" and dtype == torch.bfloat16
            if case.operation in bench.TRITON and not product:
                args = case.make(torch.device("cpu"), dtype)
                compare(
                    case, getattr(versions, case.operation)(*args), OPERATIONS[case.operation](*args), args
                )
                count += 1
    print(f"{count} cases agree")


MAPS = {"queries": 0, "keys": 0, "valid": "u8", "sums": "fp32", "out": "fp32"}
SIZES = {"m": "i32", "n": "i32", "heads": "i32", "width": "i32", "scale": "fp32"}
ROWS = {
    "x": 0,
    "offsets": "i64",
    "columns": "i64",
    "weights": "fp32",
    "divide": "fp32",
    "out": 0,
    "width": "i32",
}
PLACES = {
    "x": 0,
    "index": "i64",
    "valid": "u8",
    "out": 0,
    "n": "i32",
    "k": "i32",
    "parts": "i32",
    "width": "i32",
}
KERNELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "_max_min": (
        {"distance": "fp32", "valid": "u8", "start": "i64", "picks": "i64", "n": "i32", "most": "i32"},
        {"BLOCK": 4096},
    ),
    "_log_sums": (
        {k: v for k, v in MAPS.items() if k != "sums"} | SIZES,
        {"HEAD": 128, "M": 128, "N": 64},
    ),
    "_received": (
        {**MAPS, "counts": "fp32"} | SIZES,
        {"SAME": True, "HEAD": 128, "M": 128, "N": 64},
    ),
    "_sums": (ROWS, {"DIVIDE": True, "BLOCK": 1024}),
    "_gather": (PLACES, {"VALID": True, "BLOCK": 4096}),
}
"""Arguments of each kernel by name (pointers by what they point to, 0: the type of the input), and its constants."""


@needed
@pytest.mark.parametrize("dtype", list(TYPES))
@pytest.mark.parametrize("name", list(KERNELS))
def test_triton_compiles_for_a_card(name: str, dtype: str) -> None:
    """To machine code of compute capability 9.0, which needs no GPU."""
    triton = importlib.import_module("triton")
    compiler = importlib.import_module("triton.compiler")
    backends = importlib.import_module("triton.backends.compiler")
    kernel = getattr(importlib.import_module("autotc.kernels._triton"), name)
    arguments, constants = KERNELS[name]
    kinds = {k: v if k in (*SIZES, "k", "parts", "most") else f"*{v or dtype}" for k, v in arguments.items()}
    kinds |= dict.fromkeys(constants, "constexpr")
    signature = {k: kinds[k] for k in kernel.arg_names}
    source = compiler.ASTSource(kernel, signature, constants)
    made = triton.compile(source, target=backends.GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"]


@needed
def test_triton_agrees_with_the_reference() -> None:
    """In a process of its own: Triton looks when it is imported whether it shall interpret."""
    paths = os.pathsep.join(p for p in (".", *sys.path) if p)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    script = "from tests.kernels.test_triton import check; check()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=600
    )
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip(f"Triton's interpreter {version('triton')} does not run with numpy {version('numpy')}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 30
