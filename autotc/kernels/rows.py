"""What a decision does to tensors: rows gathered, or summed with weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autotc.kernels.dispatch import operation


@operation
def gather_rows(tensors: Sequence[Tensor], index: Tensor, valid: Tensor | None = None) -> list[Tensor]:
    """Pick the same tokens from several tensors: hidden states, rotary tables, rows of a cache.

    Args:
        tensors: (B, N, ...) each, or (B, G, N, ...) with G groups that share the index where there are four axes.
        index: (B, K) int64.
        valid: (B, K) bool; rows that are not valid come out as zero.

    Returns:
        (B, K, ...) or (B, G, K, ...) each.
    """
    out = []
    for x in tensors:
        axis = x.ndim - 2
        lead = [1] * (axis - 1)
        wide = index.view(len(index), *lead, -1, 1).expand(*x.shape[:axis], -1, x.shape[-1])
        rows = x.gather(axis, wide)
        if valid is not None:
            rows = rows * valid.view(len(index), *lead, -1, 1)
        out.append(rows)
    return out


@operation
def sum_rows(x: Tensor, offsets: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of rows: out[r] = the sum of weights[e] x[columns[e]] over r's entries e.

    Args:
        x: (R, D).
        offsets: (K + 1,) int64, where the entries of each row that comes out start.
        columns: (E,) int64.
        weights: (E,) float.

    Returns:
        (K, D) of the type of x; the sums are float32, or wider where x is.
    """
    weights = weights.to(torch.float32 if x.dtype.itemsize < 4 else x.dtype)
    row_of = torch.arange(len(offsets) - 1, device=x.device).repeat_interleave(offsets.diff())
    out = torch.zeros(len(offsets) - 1, x.shape[-1], dtype=weights.dtype, device=x.device)
    out.index_add_(0, row_of, x[columns].to(weights.dtype) * weights[:, None])
    return out.to(x.dtype)
