"""Greedy selections: pick, update one running vector, pick again. Ties go to the lowest index.

A row stops at its own count; entries of the answer past it mean nothing. No token is picked twice, and
padding never.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autotc.kernels.dispatch import operation


@operation
def greedy_select(distance: Tensor, count: Tensor, valid: Tensor, start: Tensor | None = None) -> Tensor:
    """Pick, again and again, the token whose nearest chosen token is farthest (max-min).

    Args:
        distance: (B, N, N) float.
        count: (B,) int64, tokens to pick; at most the row's valid ones.
        valid: (B, N) bool.
        start: (B,) the first pick; by default the token whose nearest neighbour is farthest.

    Returns:
        (B, K) int64 in the order of picks, K the largest count.
    """
    b, n = valid.shape
    picks = _room(count, b, distance)
    if not picks.shape[1]:
        return picks
    if start is None:
        others = torch.eye(n, dtype=torch.bool, device=distance.device)[None] | ~valid[:, :, None]
        start = first_max(distance.masked_fill(others, torch.inf).amin(1), valid)
    picks[:, 0] = start
    least = _row(distance, start)
    open_ = valid.scatter(1, start[:, None], False)
    for step in range(1, picks.shape[1]):
        best = first_max(least, open_)
        picks[:, step] = best
        open_.scatter_(1, best[:, None], False)
        least = torch.minimum(least, _row(distance, best))
    return picks


@operation
def greedy_cover(
    similarity: Tensor, count: Tensor, valid: Tensor, weight: Tensor | None = None, add: Tensor | None = None
) -> Tensor:
    """Pick, again and again, the token that raises most the summed best similarity of the rows (coverage).

    Args:
        similarity: (B, M, N) float, rows to cover by columns; rows that don't count are all zero.
        count: (B,) int64.
        valid: (B, N) bool, columns that may be picked.
        weight: (B, N) the gain is multiplied by it.
        add: (B, N) added to the gain.

    Returns:
        (B, K) int64 in the order of picks.
    """
    b = len(valid)
    picks = _room(count, b, similarity)
    covered = torch.zeros(similarity.shape[:2], device=similarity.device, dtype=similarity.dtype)
    open_ = valid.clone()
    for step in range(picks.shape[1]):
        gain = (similarity - covered[..., None]).clamp_min(0).sum(1)
        gain = gain if weight is None else gain * weight
        best = first_max(gain if add is None else gain + add, open_)
        picks[:, step] = best
        open_.scatter_(1, best[:, None], False)
        column = similarity.gather(2, best[:, None, None].expand(-1, covered.shape[1], 1))[..., 0]
        covered = torch.maximum(covered, column)
    return picks


@operation
def greedy_volume(kernel: Tensor, count: Tensor, valid: Tensor) -> Tensor:
    """Pick, again and again, the token of largest residual variance (MAP of a determinantal point process).

    Args:
        kernel: (B, N, N) positive semi-definite, float32.
        count: (B,) int64.
        valid: (B, N) bool.

    Returns:
        (B, K) int64 in the order of picks. Where the kernel's rank is used up the rest go by lowest index.
    """
    b, n = valid.shape
    picks = _room(count, b, kernel)
    residual = kernel.diagonal(dim1=1, dim2=2).clone()
    basis = kernel.new_zeros(b, picks.shape[1], n)
    open_ = valid.clone()
    for step in range(picks.shape[1]):
        best = first_max(residual, open_)
        picks[:, step] = best
        open_.scatter_(1, best[:, None], False)
        known = basis[:, :step].gather(2, best[:, None, None].expand(b, step, 1))
        pivot = residual.gather(1, best[:, None])
        row = _row(kernel, best) - (known * basis[:, :step]).sum(1)
        # past the kernel's rank the pivot is round-off: dividing by it would only make NaN
        row = torch.where(pivot > 0, row / pivot.clamp_min(torch.finfo(kernel.dtype).tiny).sqrt(), 0)
        basis[:, step] = row
        residual = residual - row.square()
    return picks


def _room(count: Tensor, b: int, like: Tensor) -> Tensor:
    return torch.zeros(b, int(count.max()) if b else 0, dtype=torch.long, device=like.device)


def _row(matrix: Tensor, index: Tensor) -> Tensor:
    return matrix.gather(1, index[:, None, None].expand(-1, 1, matrix.shape[2]))[:, 0]


def first_max(score: Tensor, allowed: Tensor) -> Tensor:
    """(B,) the lowest index of the highest allowed score, also where all allowed scores are -inf."""
    score = score.masked_fill(~allowed, -torch.inf)
    best = score.amax(1, keepdim=True)
    return ((score == best) & allowed).to(torch.int8).argmax(1)
