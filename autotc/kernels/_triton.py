"""Triton versions of operations, for `bench kernels` to compare with; nothing else runs them.

The only file that imports Triton, which comes with torch on a machine with a GPU. Operations that need a sort or a
matching (`bipartite_match`, `density_peaks`) and the greedy loops over more than one block have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from autotc.kernels.greedy import first_max
from autotc.kernels.matching import segments

_LOG2E = 1.4426950408889634


@triton.jit
def _max_min(distance, valid, start, picks, n, most, BLOCK: tl.constexpr):
    """One program a sequence, its tokens in registers."""
    b = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    open_ = tl.load(valid + b * n + at, mask=at < n, other=0) != 0
    best = tl.load(start + b).to(tl.int32)
    least = tl.load(distance + (b * n + best).to(tl.int64) * n + at, mask=at < n, other=0.0)
    tl.store(picks + b * most, best.to(tl.int64))
    for step in range(1, most):  # past a row's own count picks mean nothing
        open_ = open_ & (at != best)
        best = tl.argmax(tl.where(open_, least, float("-inf")), 0).to(tl.int32)
        tl.store(picks + b * most + step, best.to(tl.int64))
        row = tl.load(distance + (b * n + best).to(tl.int64) * n + at, mask=at < n, other=0.0)
        least = tl.minimum(least, row)


def greedy_select(distance: Tensor, count: Tensor, valid: Tensor, start: Tensor | None = None) -> Tensor:
    """Pick by max-min; see `kernels.greedy_select`."""
    b, n = valid.shape
    distance = distance.float().contiguous()
    if start is None:
        others = torch.eye(n, dtype=torch.bool, device=distance.device)[None] | ~valid[:, :, None]
        start = first_max(distance.masked_fill(others, torch.inf).amin(1), valid)
    picks = torch.zeros(b, int(count.max()), dtype=torch.long, device=distance.device)
    block = triton.next_power_of_2(n)
    marks = valid.to(torch.uint8).contiguous()
    _max_min[(b,)](
        distance,
        marks,
        start,
        picks,
        n,
        picks.shape[1],
        BLOCK=block,
        num_warps=min(32, max(4, block // 128)),
    )
    return picks


@triton.jit
def _log_sums(
    queries, keys, valid, out, m, n, heads, width, scale, HEAD: tl.constexpr, M: tl.constexpr, N: tl.constexpr
):
    """The base 2 logarithm of each query's softmax denominator."""
    place = tl.program_id(1).to(tl.int64)
    row, d = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, HEAD)
    inside = (row[:, None] < m) & (d[None, :] < width)
    q = tl.load(queries + (place * m + row[:, None]) * width + d[None, :], mask=inside, other=0.0)
    high = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    for first in range(0, n, N):
        column = first + tl.arange(0, N)
        there = (column[None, :] < n) & (d[:, None] < width)
        k = tl.load(keys + (place * n + column[None, :]) * width + d[:, None], mask=there, other=0.0)
        seen = tl.load(valid + place // heads * n + column, mask=column < n, other=0) != 0
        logits = tl.where(seen[None, :], tl.dot(q, k, input_precision="ieee") * scale, float("-inf"))
        now = tl.maximum(high, tl.max(logits, 1))
        total = total * tl.exp2(high - now) + tl.sum(tl.exp2(logits - now[:, None]), 1)
        high = now
    tl.store(out + place * m + row, high + tl.log2(total), mask=row < m)


@triton.jit
def _received(
    queries,
    keys,
    valid,
    counts,
    sums,
    out,
    m,
    n,
    heads,
    width,
    scale,
    SAME: tl.constexpr,
    HEAD: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    """What each key receives, mean over the queries that count."""
    place = tl.program_id(1).to(tl.int64)
    column, d = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, HEAD)
    inside = (column[:, None] < n) & (d[None, :] < width)
    k = tl.load(keys + (place * n + column[:, None]) * width + d[None, :], mask=inside, other=0.0)
    total = tl.zeros([N], tl.float32)
    for first in range(0, m, M):
        row = first + tl.arange(0, M)
        there = (row[None, :] < m) & (d[:, None] < width)
        q = tl.load(queries + (place * m + row[None, :]) * width + d[:, None], mask=there, other=0.0)
        counted = row < m
        if SAME:  # padded queries do not count where queries are the keys' tokens
            counted = counted & (tl.load(valid + place // heads * n + row, mask=row < n, other=0) != 0)
        log_sum = tl.load(sums + place * m + row, mask=row < m, other=0.0)
        share = tl.exp2(tl.dot(k, q, input_precision="ieee") * scale - log_sum[None, :])
        total += tl.sum(tl.where(counted[None, :], share, 0.0), 1)
    seen = tl.load(valid + place // heads * n + column, mask=column < n, other=0) != 0
    total = tl.where(seen, total / tl.load(counts + place // heads), 0.0)
    tl.store(out + place * n + column, total, mask=column < n)


def attention_received(
    queries: Tensor, keys: Tensor, scale: float | None = None, valid: Tensor | None = None
) -> Tensor:
    """Return what each key receives; see `kernels.attention_received`."""
    b, h, m, width = queries.shape
    n, same = keys.shape[2], valid is not None
    base = (width**-0.5 if scale is None else scale) * _LOG2E
    queries, keys = queries.contiguous(), keys.contiguous()
    seen = torch.ones(b, n, dtype=torch.uint8, device=keys.device) if valid is None else valid.to(torch.uint8)
    counts = seen.new_full((b,), m, dtype=torch.float32) if valid is None else valid.sum(1).float()
    sums = torch.empty(b, h, m, device=keys.device)
    out = torch.empty(b, h, n, device=keys.device)
    shape: dict[str, Any] = {
        "HEAD": max(16, triton.next_power_of_2(width)),
        "M": 128,
        "N": 64,
        "num_warps": 8,
    }
    ends = (m, n, h, width, base)
    _log_sums[(triton.cdiv(m, 128), b * h)](queries, keys, seen, sums, *ends, **shape)
    _received[(triton.cdiv(n, 64), b * h)](queries, keys, seen, counts, sums, out, *ends, SAME=same, **shape)
    return out


@triton.jit
def _sums(x, offsets, columns, weights, divide, out, width, DIVIDE: tl.constexpr, BLOCK: tl.constexpr):
    """One program a row of the output and a part of its width."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    entry, last = tl.load(offsets + row), tl.load(offsets + row + 1)
    while entry < last:
        source = x + tl.load(columns + entry) * width + d
        total += tl.load(weights + entry) * tl.load(source, mask=d < width, other=0.0).to(tl.float32)
        entry += 1
    if DIVIDE:
        total = total / tl.load(divide + row)
    tl.store(out + row * width + d, total.to(out.dtype.element_ty), mask=d < width)


def sum_rows(x: Tensor, offsets: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of rows; see `kernels.sum_rows`."""
    out = torch.empty(len(offsets) - 1, x.shape[-1], dtype=x.dtype, device=x.device)
    _sum(x.contiguous(), offsets, columns, weights.float(), None, out)
    return out


def bipartite_merge(x: Tensor, size: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Merge tokens into their targets; see `kernels.bipartite_merge`."""
    b, n, d = x.shape
    total = torch.zeros_like(size).scatter_add_(1, target, size)
    order, offsets = segments(target)
    divide = total.clamp_min(torch.finfo(total.dtype).tiny).float().flatten()
    out = torch.empty(b, n, d, device=x.device)
    _sum(x.reshape(b * n, d).contiguous(), offsets, order, size.float().flatten()[order], divide, out)
    return out, total


def _sum(
    x: Tensor, offsets: Tensor, columns: Tensor, weights: Tensor, divide: Tensor | None, out: Tensor
) -> None:
    width = x.shape[-1]
    block = min(1024, triton.next_power_of_2(width))
    grid = (len(offsets) - 1, triton.cdiv(width, block))
    by = weights if divide is None else divide
    _sums[grid](x, offsets, columns, weights, by, out, width, DIVIDE=divide is not None, BLOCK=block)


@triton.jit
def _gather(x, index, valid, out, n, k, parts, width, VALID: tl.constexpr, BLOCK: tl.constexpr):
    """One program a row of the output and a part of its width."""
    row, place = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b = place // parts
    d = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    source = x + (place * n + tl.load(index + b * k + row)) * width + d
    found = tl.load(source, mask=d < width, other=0.0)
    if VALID:
        found = tl.where(tl.load(valid + b * k + row) != 0, found, 0.0)
    tl.store(out + (place * k + row) * width + d, found.to(out.dtype.element_ty), mask=d < width)


def gather_rows(tensors: Sequence[Tensor], index: Tensor, valid: Tensor | None = None) -> list[Tensor]:
    """Pick the same tokens from several tensors, one a launch; see `kernels.gather_rows`."""
    (b, k), found = index.shape, []
    index = index.contiguous()
    marks = index if valid is None else valid.to(torch.uint8).contiguous()
    for x in tensors:
        n, width, parts = x.shape[-2], x.shape[-1], x.shape[1] if x.ndim == 4 else 1
        out = torch.empty(*x.shape[:-2], k, width, dtype=x.dtype, device=x.device)
        block = min(4096, triton.next_power_of_2(width))
        grid = (k, b * parts, triton.cdiv(width, block))
        _gather[grid](
            x.contiguous(), index, marks, out, n, k, parts, width, VALID=valid is not None, BLOCK=block
        )
        found.append(out)
    return found
