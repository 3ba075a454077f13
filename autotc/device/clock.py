"""Timing work on a device: warm-up, many runs, the median and how far runs lie apart."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

WARM_UP, REPEATS = 3, 20
FLUSH = 4 << 30  # bytes at most: a millisecond of writing on the fastest cards, and beyond every cache


@dataclass(frozen=True)
class Times:
    """Milliseconds of some runs of the same work, sorted."""

    ms: tuple[float, ...]

    @property
    def median(self) -> float:
        middle = len(self.ms) // 2
        return self.ms[middle] if len(self.ms) % 2 else (self.ms[middle - 1] + self.ms[middle]) / 2

    @property
    def p10(self) -> float:
        return self.ms[int(0.1 * (len(self.ms) - 1) + 0.5)]

    @property
    def p90(self) -> float:
        return self.ms[int(0.9 * (len(self.ms) - 1) + 0.5)]

    @property
    def stderr(self) -> float:
        """Standard error of the median, from the quartiles as for a normal spread."""
        n = len(self.ms)
        spread = (self.ms[(3 * n) // 4] - self.ms[n // 4]) / 1.349
        return 1.2533 * spread / n**0.5

    def as_dict(self) -> dict[str, float]:
        """Return median, p10, p90 and the number of runs."""
        return {"median_ms": self.median, "p10_ms": self.p10, "p90_ms": self.p90, "n": len(self.ms)}


def timed(
    work: Callable[[], Any],
    device: torch.device,
    repeats: int = REPEATS,
    warm_up: int = WARM_UP,
    limit_s: float = math.inf,
    alone: bool = False,
) -> Times:
    """Run work again and again and time each run: by CUDA events on a GPU, by the clock elsewhere.

    Args:
        limit_s: seconds after which it stops before all repeats, but never with fewer than three.
        alone: time what the GPU does and not how fast Python launches it, with a cold cache: a large write keeps the
            GPU busy while the work is queued behind it.
    """
    before = _filler(device) if alone and device.type == "cuda" else None
    for _ in range(warm_up):
        work()
    found: list[float] = []
    for _ in range(repeats):
        if len(found) >= 3 and sum(found) > 1e3 * limit_s:
            break
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if before is not None:
                before.zero_()
            start.record()
            work()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            work()
            found.append(1e3 * (time.perf_counter() - begin))
    return Times(tuple(sorted(found)))


def _filler(device: torch.device) -> torch.Tensor:
    memory = torch.cuda.get_device_properties(device).total_memory
    return torch.empty(min(FLUSH, memory // 16), dtype=torch.uint8, device=device)


def captured(work: Callable[[], Any], device: torch.device) -> Callable[[], Any] | None:
    """Return work as a CUDA graph that replays it; None where it cannot be captured, or not on a GPU.

    It must not ask the device for numbers and has to leave its inputs where they are.
    """
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
    except RuntimeError:  # a synchronising call: this work cannot be captured
        torch.cuda.synchronize()
        return None
    return graph.replay


def copy_bytes_per_s(device: torch.device, size: int = 1 << 30) -> float:
    """Return the bandwidth of a large copy on the device, bytes read plus bytes written a second."""
    source = torch.empty(size, dtype=torch.uint8, device=device).random_(0, 255)
    target = torch.empty_like(source)
    return 2 * size / (timed(lambda: target.copy_(source), device).median / 1e3)


def matmul_flops_per_s(device: torch.device, n: int = 8192, dtype: torch.dtype = torch.bfloat16) -> float:
    """Return the rate of a large square matrix product, two operations a multiply-add."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / (timed(lambda: torch.matmul(a, b, out=out), device).median / 1e3)
