"""The operations on a GPU against their references: every case, every type, streams, views, memory."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from autotc import kernels
from autotc.kernels import bench, dispatch
from autotc.kernels.cases import Case, cases, random
from tests.kernels.test_cuda_sources import TYPES, compare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
HEAVY = "32,768 tokens"  # its reference holds three N x N matrices


def typed() -> list[Any]:
    return [
        pytest.param(case, dtype, id=f"{case.operation}: {case.name}, {name}")
        for case in cases(large=True)
        for name, dtype in TYPES.items()
        if (case.typed or dtype == torch.float32) and case.name != HEAVY
    ]


@pytest.fixture(autouse=True)
def exact() -> None:
    """The reference computes in float32 here, whatever the machine's default."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("case", "dtype"), typed())
def test_the_gpu_agrees_with_the_reference(case: Case, dtype: torch.dtype) -> None:
    args = case.make(torch.device("cuda"), dtype)
    expected = dispatch.OPERATIONS[case.operation](*args)
    with kernels.use("cuda"):
        got = getattr(kernels, case.operation)(*args)
    torch.cuda.synchronize()
    compare(case, got, expected, args)


@pytest.mark.parametrize(("case", "dtype"), [p for p in typed() if p.values[0].operation in bench.TRITON])
def test_what_the_benchmark_compares_with_does_the_same(case: Case, dtype: torch.dtype) -> None:
    versions = pytest.importorskip("autotc.kernels._triton", reason="Triton is not installed")
    args = case.make(torch.device("cuda"), dtype)
    expected = dispatch.OPERATIONS[case.operation](*args)
    compare(case, getattr(versions, case.operation)(*args), expected, args)


def test_32768_tokens_by_parts() -> None:
    case = next(c for c in cases(large=True) if c.name == HEAVY)
    args = case.make(torch.device("cuda"), torch.float32)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with kernels.use("cuda"):
        density, gap = kernels.density_peaks(*args)
    assert torch.cuda.max_memory_allocated() - before < 1 << 30  # the matrix would be 4 GiB
    some = torch.arange(0, 32768, 4099, device="cuda")
    x = args[0][0]
    squared = ((x[some, None] - x[None]).square().sum(-1) / x.shape[1]).double()
    mean = squared.sort(-1).values[:, :64].mean(-1)
    torch.testing.assert_close(density[0, some].double(), (-mean).exp(), rtol=1e-5, atol=1e-6)
    denser = density[0][None] > density[0, some][:, None]
    apart = squared.masked_fill(~denser, torch.inf).amin(-1).sqrt()
    seen = apart.isfinite()
    torch.testing.assert_close(gap[0, some][seen].double(), apart[seen], rtol=1e-5, atol=1e-6)


def test_attention_received_needs_no_matrix() -> None:
    q, k = (random(1, 16, 4096, 80, seed=s).to("cuda", torch.bfloat16) for s in (0, 1))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with kernels.use("cuda"):
        kernels.attention_received(q, k)
    assert torch.cuda.max_memory_allocated() - before < 4 << 20  # one matrix would be 512 MiB


def test_kernels_run_on_torchs_current_stream() -> None:
    """Work queued before on another stream, and slow, must be seen: without the stream the sums would be of zeros."""
    side, x = torch.cuda.Stream(), torch.zeros(1, 4096, 256, device="cuda")
    size, target = torch.ones(1, 4096, device="cuda"), torch.zeros(1, 4096, dtype=torch.long, device="cuda")
    with kernels.use("cuda"):
        kernels.bipartite_merge(x, size, target)  # compiled
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            torch.cuda._sleep(200_000_000)
            x.fill_(1)
            merged, _ = kernels.bipartite_merge(x, size, target)
    side.synchronize()
    assert bool((merged[0, 0] == 1).all())


def test_results_do_not_change_from_run_to_run() -> None:
    for case in cases(large=True):
        if case.large and case.name != HEAVY:
            args = case.make(torch.device("cuda"), torch.float32)
            with kernels.use("cuda"):
                first, second = (getattr(kernels, case.operation)(*args) for _ in range(2))
            pairs = [(first, second)] if isinstance(first, torch.Tensor) else zip(first, second, strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), case.operation


def test_cupy_is_only_imported_for_cuda_tensors() -> None:
    assert dispatch.why_not(torch.empty(1, device="cuda")) is None
    assert "cupy" in sys.modules
