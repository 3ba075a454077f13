"""The CUDA sources without a GPU: compiled for it by NVRTC, and run on the CPU by an emulator of its threads."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from autotc import kernels
from autotc.kernels import cuda, sources
from autotc.kernels.cases import Case, cases
from autotc.kernels.dispatch import OPERATIONS
from tests.kernels import emulator

CPU = torch.device("cpu")
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
INDICES = {"greedy_select", "greedy_cover", "greedy_volume", "bipartite_match"}
# relative to the largest number: sums of float32 in another order and an exponential good to 22 bits; what comes out in
# 16 bits is off by a rounding
TOLERANCE = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def compare(case: Case, got: Any, expected: Any, args: tuple[Any, ...]) -> None:
    """Indices equal where they mean something, numbers within rounding, nothing unwritten."""
    if case.operation.startswith("greedy"):
        for row, count in enumerate(args[1].tolist()):
            assert got[row, :count].tolist() == expected[row, :count].tolist(), f"row {row}"
        return
    if case.operation in INDICES:
        assert got.tolist() == expected.tolist()
        return
    pairs = zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (got, expected)), strict=True)
    for mine, theirs in pairs:
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        finite = theirs[theirs.isfinite()]
        largest = float(finite.abs().max()) if finite.numel() else 1.0
        # `density_peaks` leaves the distance of padding open
        real = args[2] if case.operation == "density_peaks" else torch.ones_like(theirs, dtype=torch.bool)
        apart = TOLERANCE[theirs.dtype] * largest
        torch.testing.assert_close(mine[real].float(), theirs[real].float(), rtol=0, atol=apart)


def typed() -> list[Any]:
    return [
        pytest.param(case, dtype, id=f"{case.operation}: {case.name}, {name}")
        for case in cases()
        for name, dtype in TYPES.items()
        if case.typed or dtype == torch.float32
    ]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Send launches to the emulator; return the kernels that were launched."""
    if emulator.COMPILER is None:
        pytest.skip("no C++ compiler to build the emulator with")
    seen: list[str] = []
    seeds = itertools.count()

    def launch(like: torch.Tensor, source: str, kernel: str, *args: Any, **options: Any) -> None:
        seen.append(kernel)
        macros = dict(options.pop("macros", {}))
        if "HEAD" in macros:  # the emulator holds two widths
            macros["HEAD"] = min(h for h in (32, 80) if h >= macros["HEAD"])
            options["shared"] = 192 * (macros["HEAD"] + 8) * 4 + 256
        emulator.launch(like, source, kernel, *args, **options, macros=macros, seed=next(seeds))

    monkeypatch.setattr(cuda._cupy, "launch", launch)
    monkeypatch.setattr(cuda._cupy, "clusters", lambda like: 4)
    monkeypatch.setattr(cuda, "THREADS", 128)
    return seen


@pytest.mark.parametrize(("case", "dtype"), typed())
def test_kernels_agree_with_the_reference(case: Case, dtype: torch.dtype, emulated: list[str]) -> None:
    args = case.make(CPU, dtype)
    expected = OPERATIONS[case.operation](*args)
    got = getattr(cuda, case.operation)(*args)
    assert emulated or case.name == "one token"
    compare(case, got, expected, args)


@pytest.mark.parametrize("name", ["greedy_cover", "greedy_volume"])
def test_one_block_a_sequence_picks_the_same(
    name: str, emulated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda._cupy, "clusters", lambda like: 1)
    monkeypatch.setattr(cuda, "THREADS", 1024)
    for case in cases():
        if case.operation == name:
            args = case.make(CPU, torch.float32)
            compare(case, getattr(cuda, name)(*args), OPERATIONS[name](*args), args)


def test_density_by_parts_of_the_matrix(emulated: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIMIT_BYTES", 4 * 2 * 71 * 9)  # nine rows at a time
    case = next(c for c in cases() if c.operation == "density_peaks" and "odd" in c.name)
    args = case.make(CPU, torch.float32)
    compare(case, cuda.density_peaks(*args), OPERATIONS["density_peaks"](*args), args)
    assert emulated.count("nearest_mean") == 8


def test_every_kernel_is_launched_and_every_operation_has_cases() -> None:
    assert {case.operation for case in cases()} == set(OPERATIONS)
    assert set(OPERATIONS) <= set(kernels.__all__)


def test_the_emulator_finds_a_missing_barrier_and_a_barrier_that_some_never_reach(
    emulated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of the check: sources that are wrong must not pass."""
    whole = sources.text

    def broken(line: str, instead: str) -> Any:
        return lambda name, device=None: whole(name, device).replace(line, instead, 1)

    case = next(c for c in cases() if c.operation == "density_peaks" and "odd" in c.name)
    args = case.make(CPU, torch.float32)
    expected = OPERATIONS["density_peaks"](*args)
    monkeypatch.setattr(emulator, "_library", emulator._library.__wrapped__)
    store = "atomicAdd(histogram + (key >> shift & 255), 1u);\n        }\n"
    barrier = f"{store}        __syncthreads();"
    assert barrier in whole("density")
    monkeypatch.setattr(sources, "text", broken(barrier, store))
    with pytest.raises(AssertionError):
        compare(case, cuda.density_peaks(*args), expected, args)
    monkeypatch.setattr(sources, "text", broken(barrier, f"{store}        if (warp() == 0) __syncthreads();"))
    with pytest.raises(RuntimeError, match="never come"):
        cuda.density_peaks(*args)


# --- NVRTC ---


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """Load NVRTC from its wheel (the `test` extra) or the system."""
    spec = importlib.util.find_spec("nvidia")
    roots = [] if spec is None else [Path(p) for p in spec.submodule_search_locations or ()]
    found = [p for root in roots for p in root.glob("*/lib/libnvrtc.so.*") if "alt" not in p.name]
    for name in (*map(str, sorted(found)), "libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def compiled(text: str, *options: str) -> str:
    """Return the PTX of a source.

    Raises:
        ValueError: the compiler's messages.
    """
    library = nvrtc()
    assert library is not None
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"source.cu", 0, None, None) == 0
    raw = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    status = library.nvrtcCompileProgram(program, len(options), raw)
    read = (library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog)
    if status == 0:
        read = (library.nvrtcGetPTXSize, library.nvrtcGetPTX)
    read[0](program, ctypes.byref(size))
    answer = ctypes.create_string_buffer(size.value)
    read[1](program, answer)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if status != 0:
        raise ValueError(answer.value.decode())
    return answer.value.decode()


@pytest.fixture
def compiler() -> None:
    if nvrtc() is None:
        wheels = [d.metadata["Name"] for d in importlib.metadata.distributions()]
        assert "nvidia-cuda-nvrtc" not in wheels, "NVRTC is installed and cannot be loaded"
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("greedy", "-DCLUSTER=1"),
        ("greedy", "-DCLUSTER=8"),
        ("rows", ""),
        ("density", ""),
        ("attention", "-DHEAD=80"),
    ],
)
def test_sources_compile_for_the_cards(name: str, extra: str, compiler: None) -> None:
    for architecture, dtype in itertools.product(("sm_80", "sm_90"), (0, 1, 2)):
        if "CLUSTER=8" in extra and architecture == "sm_80":
            continue  # clusters came with 9.0
        options = [
            f"--gpu-architecture={architecture}",
            "--std=c++17",
            f"-DDTYPE={dtype}",
            *filter(None, [extra]),
        ]
        ptx = compiled(sources.text(name), *options)
        for kernel in sources.kernel_names(name):
            assert f".entry {kernel}(" in ptx
        assert (".reqnctapercluster 8" in ptx) == ("CLUSTER=8" in extra)
        assert ("mma.sync" in ptx) == (name == "attention" and dtype != 0)


def test_an_error_in_a_source_is_found(compiler: None) -> None:
    with pytest.raises(ValueError, match="expected a"):
        compiled(sources.text("rows").replace(";", "", 20), "--gpu-architecture=sm_90")
