"""The operations on CUDA: each prepares what its kernel wants, lets torch allocate, and launches.

A function here has the name and the arguments of its reference, which is the definition. Nothing here imports CuPy
at the top: `_cupy` does, when something is launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autotc.kernels import _cupy
from autotc.kernels.greedy import first_max
from autotc.kernels.matching import edge_roles, segments, sent

_DTYPE = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
THREADS = 1024
SLOTS = 2 * 66 * 4  # bytes of shared memory for two rounds of `cluster_top`
_PARTIAL = 32 * 8 * 32  # numbers that `column_sums` puts down
LIMIT_BYTES = 256 << 20  # of the distance matrix that `density_peaks` holds at a time


def greedy_select(distance: Tensor, count: Tensor, valid: Tensor, start: Tensor | None = None) -> Tensor:
    """Pick by max-min; see `kernels.greedy_select`."""
    b, n = valid.shape
    picks = _picks(count, b, distance)
    if not picks.numel():
        return picks
    distance, valid, count = distance.float().contiguous(), valid.contiguous(), count.contiguous()
    if start is None:
        nearest = torch.empty(b, n, device=distance.device)
        grid, most = (_tiles(n, 32), b, 1), THREADS * 4
        _launch(
            distance, "greedy", "nearest_other", grid, THREADS, (distance, valid, nearest, n), shared=most
        )
        start = first_max(nearest, valid)
    arguments = (distance, count, valid, start.contiguous(), picks, n, picks.shape[1])
    _launch(distance, "greedy", "max_min", (b, 1, 1), THREADS, arguments, shared=SLOTS + 4 * n)
    return picks


def greedy_cover(
    similarity: Tensor, count: Tensor, valid: Tensor, weight: Tensor | None = None, add: Tensor | None = None
) -> Tensor:
    """Pick by coverage; see `kernels.greedy_cover`."""
    b, m, n = similarity.shape
    picks = _picks(count, b, similarity)
    if not picks.numel():
        return picks
    similarity, count, open_ = similarity.float().contiguous(), count.contiguous(), valid.clone()
    weight, add = (None if x is None else x.float().contiguous() for x in (weight, add))
    gain = torch.empty(b, n, dtype=torch.float64, device=similarity.device)
    together = _cupy.clusters(similarity)
    covered = torch.zeros(b, together, m, device=similarity.device)
    arguments: tuple[Any, ...] = (similarity, gain, m, n)
    grid = (_tiles(n, 32), b, 1)
    _launch(similarity, "greedy", "positive_sums", grid, THREADS, arguments, shared=THREADS * 8)
    arguments = (similarity, count, open_, weight, add, gain, covered, picks, m, n, picks.shape[1])
    shared = 8 * _PARTIAL + 12 * THREADS + SLOTS + 128
    macros = {"CLUSTER": together}
    _launch(
        similarity, "greedy", "cover", (b * together, 1, 1), THREADS, arguments, shared=shared, macros=macros
    )
    return picks


def greedy_volume(kernel: Tensor, count: Tensor, valid: Tensor) -> Tensor:
    """Pick by residual variance; see `kernels.greedy_volume`."""
    b, n = valid.shape
    picks = _picks(count, b, kernel)
    if not picks.numel():
        return picks
    kernel, count, open_ = kernel.float().contiguous(), count.contiguous(), valid.clone()
    most, together = picks.shape[1], _cupy.clusters(kernel)
    residual = kernel.diagonal(dim1=1, dim2=2).contiguous()
    residual = residual.clone() if residual.data_ptr() == kernel.data_ptr() else residual
    basis = torch.empty(b, most, n, device=kernel.device)
    arguments = (kernel, count, open_, residual, basis, picks, n, most)
    shared = 4 * _PARTIAL + SLOTS + 4 * most
    macros = {"CLUSTER": together}
    _launch(
        kernel, "greedy", "volume", (b * together, 1, 1), THREADS, arguments, shared=shared, macros=macros
    )
    return picks


def attention_received(
    queries: Tensor, keys: Tensor, scale: float | None = None, valid: Tensor | None = None, chunk: int = 256
) -> Tensor:
    """Return what each key receives, without the M x N matrix; see `kernels.attention_received`."""
    b, h, m, width = queries.shape
    n = keys.shape[2]
    scale = width**-0.5 if scale is None else scale
    queries, keys = (x if x.stride(-1) == 1 else x.contiguous() for x in (queries, keys.to(queries.dtype)))
    valid = None if valid is None else valid.contiguous()
    received = torch.empty(b, h, n, device=queries.device)
    log_sums = torch.empty(b, h, m, device=queries.device)
    counts = received.new_full((b,), m) if valid is None else valid.sum(1).float()
    if not received.numel():
        return received
    head = _tiles(width, 16) * 16
    pitch, size = head + (4 if queries.dtype == torch.float32 else 8), queries.dtype.itemsize
    bytes_ = (128 + 64) * pitch * size + 64 * 4
    views: list[Any] = []
    wide = True
    for x in (queries, keys):
        strides = x.stride()[:3]
        wide = wide and all(s * size % 16 == 0 for s in (*strides, width)) and x.data_ptr() % 16 == 0
        views += [x, *strides]
    options = {"shared": bytes_, "macros": {"DTYPE": _DTYPE[queries.dtype], "HEAD": head}}
    base = scale * 1.4426950408889634  # the kernels count in powers of two
    ends = (m, n, width, float(base), int(wide))
    grid = (_tiles(m, 128), h, b)
    _launch(queries, "attention", "row_log_sums", grid, 128, (*views, valid, log_sums, *ends), **options)
    grid = (_tiles(n, 128), h, b)
    arguments = (*views, valid, log_sums, counts, received, *ends)
    _launch(queries, "attention", "received", grid, 128, arguments, **options)
    return received


def bipartite_match(
    metric: Tensor,
    count: Tensor,
    valid: Tensor,
    prefix: int = 0,
    stride: int = 2,
    penalty: Tensor | None = None,
) -> Tensor:
    """Match neighbouring positions; see `kernels.bipartite_match`. The similarities are one matrix product."""
    b, n, _ = metric.shape
    to, away, count = edge_roles(n, count, valid, prefix, stride)
    if not b or not int(count.max()):
        return torch.arange(n, device=metric.device).repeat(b, 1)
    unit = torch.nn.functional.normalize(metric.float(), dim=-1, eps=1e-12)
    edges = (unit[:, away] @ unit[:, to].transpose(-1, -2)).contiguous()
    best = torch.empty(b, len(away), device=metric.device)
    match = torch.empty(b, len(away), dtype=torch.long, device=metric.device)
    penalty = None if penalty is None else penalty[:, away].float().contiguous()
    arguments = (edges, valid[:, away].contiguous(), valid[:, to].contiguous(), penalty, best, match, len(to))
    _launch(edges, "rows", "best_match", (len(away), b, 1), 128, arguments, shared=SLOTS)
    return sent(n, to, away, best, match, count, valid)


def bipartite_merge(x: Tensor, size: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Merge tokens into their targets; see `kernels.bipartite_merge`."""
    b, n, d = x.shape
    total = torch.zeros_like(size).scatter_add_(1, target, size)
    order, offsets = segments(target)
    out = torch.empty(b, n, d, device=x.device)
    divide = total.clamp_min(torch.finfo(total.dtype).tiny).float().flatten()
    flat = x.reshape(b * n, d).contiguous()
    weights = size.float().flatten()[order].contiguous()
    arguments = (flat, offsets, order, weights, divide, out, d, 0)
    _launch(x, "rows", "sum_rows", (b * n, 1, 1), 128, arguments, macros={"DTYPE": _DTYPE[x.dtype]})
    return out, total


def density_peaks(
    x: Tensor, count: Tensor, valid: Tensor, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return density and distance, some rows of the matrix at a time; see `kernels.density_peaks`."""
    b, n, d = x.shape
    x, count, valid = x.contiguous(), count.contiguous(), valid.contiguous()
    rows = max(1, min(n, LIMIT_BYTES // max(4 * b * n, 1)))
    squared = torch.empty(b, rows, n, device=x.device)
    mean, gap, widest = (torch.zeros(b, n, device=x.device) for _ in range(3))
    macros = {"DTYPE": _DTYPE[x.dtype]}

    def distances(first: int) -> int:
        many = min(rows, n - first)
        if rows < n or first == 0:
            grid = (_tiles(n, 64), _tiles(many, 64), b)
            arguments = (x, squared, first, many, n, d)
            shared = 2 * 16 * 68 * 4
            _launch(x, "density", "squared_distances", grid, 256, arguments, shared=shared, macros=macros)
        return many

    for first in range(0, n, rows):
        many = distances(first)
        means = (squared, valid, count, mean, first, many, n)
        _launch(x, "density", "nearest_mean", (many, b, 1), 256, means, shared=32 * 8 + 256 * 4)
    density = (-mean).exp() + (0 if noise is None else noise)
    density = density.float().masked_fill(~valid, -torch.inf)
    for first in range(0, n, rows):
        many = distances(first) if rows < n else n
        gaps = (squared, valid, density, gap, widest, first, many, n)
        _launch(x, "density", "denser_gap", (many, b, 1), 256, gaps, shared=SLOTS)
    most = widest.masked_fill(~valid, 0).amax(1, keepdim=True)
    return density, torch.where(gap.isinf() | ~valid, most, gap).sqrt()


def gather_rows(tensors: Sequence[Tensor], index: Tensor, valid: Tensor | None = None) -> list[Tensor]:
    """Pick the same tokens from several tensors, four a launch; see `kernels.gather_rows`."""
    b, k = index.shape
    index = index.contiguous()
    valid = None if valid is None else valid.contiguous()
    out = []
    for first in range(0, len(tensors), 4):
        slots: list[Any] = []
        group = [x.contiguous() for x in tensors[first : first + 4]]
        wide = True
        n = group[0].shape[-2]
        for x in group:
            made = torch.empty(*x.shape[:-2], k, x.shape[-1], dtype=x.dtype, device=x.device)
            out.append(made)
            bytes_ = x.shape[-1] * x.dtype.itemsize
            wide = wide and bytes_ % 16 == 0 and x.data_ptr() % 16 == 0
            slots += [x, made, bytes_, x.shape[1] if x.ndim == 4 else 1]
        slots += [None] * (16 - len(slots))
        if all(made.numel() for made in out[first:]):
            arguments = (index, valid, n, k, int(wide), *slots)
            _launch(group[0], "rows", "gather_rows", (_tiles(k, 4), b, 4), 256, arguments)
    return out


def sum_rows(x: Tensor, offsets: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of rows; see `kernels.sum_rows`."""
    x, made = x.contiguous(), torch.empty(len(offsets) - 1, x.shape[-1], dtype=x.dtype, device=x.device)
    if made.numel():
        weights = weights.float().contiguous()
        arguments = (x, offsets.contiguous(), columns.contiguous(), weights, None, made, x.shape[-1], 1)
        macros = {"DTYPE": _DTYPE[x.dtype]}
        _launch(x, "rows", "sum_rows", (len(made), 1, 1), 128, arguments, macros=macros)
    return made


def _launch(like: Tensor, source: str, kernel: str, *args: Any, **options: Any) -> None:
    _cupy.launch(like, source, kernel, *args, **options)


def _picks(count: Tensor, b: int, like: Tensor) -> Tensor:
    return torch.zeros(b, int(count.max()) if b else 0, dtype=torch.long, device=like.device)


def _tiles(n: int, size: int) -> int:
    return -(-n // size)
