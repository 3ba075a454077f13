"""Bipartite matching of neighbouring positions, and the merge that follows it."""

from __future__ import annotations

import torch
from torch import Tensor

from autotc.kernels.dispatch import operation


@operation
def bipartite_match(
    metric: Tensor,
    count: Tensor,
    valid: Tensor,
    prefix: int = 0,
    stride: int = 2,
    penalty: Tensor | None = None,
) -> Tensor:
    """Send the `count` best matched tokens to their most similar token among every second of the sequence.

    Args:
        metric: (B, N, D) float; cosine similarity of its rows decides.
        count: (B,) int64, tokens to send away; at most half of the row's valid ones (rounded down) are, or
            the share 1 - 1 / stride of them.
        valid: (B, N) bool, padding on the right.
        prefix: rows of the sequence before these tokens; positions count from them, and they never take part.
        stride: every so many tokens, at positions stride - 1, 2 stride - 1 and so on, one receives; the others
            may be sent.
        penalty: (B, N) taken off the similarity of a token that would be sent.

    Returns:
        (B, N) int64, the token each token goes into: itself when it stays. Ties go to the lowest index.
    """
    b, n, _ = metric.shape
    to, away, count = edge_roles(n, count, valid, prefix, stride)
    if not b or not int(count.max()):
        return torch.arange(n, device=metric.device).repeat(b, 1)
    unit = torch.nn.functional.normalize(metric.float(), dim=-1, eps=1e-12)
    edges = unit[:, away] @ unit[:, to].transpose(-1, -2)
    edges = edges.masked_fill(~valid[:, None, to], -torch.inf)
    best, match = edges.max(-1)
    best = best if penalty is None else best - penalty[:, away]
    return sent(n, to, away, best.masked_fill(~valid[:, away], -torch.inf), match, count, valid)


def edge_roles(
    n: int, count: Tensor, valid: Tensor, prefix: int, stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions that receive, those that may be sent, and how many can be sent at most, (B,)."""
    receives = (torch.arange(n, device=valid.device) + prefix) % stride == stride - 1
    to, away = receives.nonzero()[:, 0], (~receives).nonzero()[:, 0]
    most = valid.sum(1) * (stride - 1) // stride
    return to, away, torch.minimum(count, most) * valid[:, to].any(1)


def sent(
    n: int, to: Tensor, away: Tensor, best: Tensor, match: Tensor, count: Tensor, valid: Tensor
) -> Tensor:
    """Return (B, N) where each token goes when the `count` best of `away` go to their match among `to`."""
    target = torch.arange(n, device=best.device).repeat(len(best), 1)
    order = torch.argsort(best, dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    moved = (rank < count[:, None]) & valid[:, away]
    target[:, away] = torch.where(moved, to[match], target[:, away])
    return target


def segments(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens (B * N,) ordered by their targets, lowest first, and where each target's start."""
    b, n = target.shape
    flat = (target + torch.arange(b, device=target.device)[:, None] * n).flatten()
    ordered, order = flat.sort(stable=True)
    return order, torch.searchsorted(ordered, torch.arange(b * n + 1, device=target.device))


@operation
def bipartite_merge(x: Tensor, size: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Merge tokens into their targets by size-weighted mean, in place (tokens sent away become zero).

    Args:
        x: (B, N, D).
        size: (B, N) how many originals a token stands for.
        target: (B, N) int64, from `bipartite_match`.

    Returns:
        x (B, N, D) float32 and size (B, N); size 0 marks tokens that were sent away.
    """
    weighted = x.float() * size[..., None]
    total = torch.zeros_like(size).scatter_add_(1, target, size)
    merged = torch.zeros_like(weighted).scatter_add_(1, target[..., None].expand_as(weighted), weighted)
    return merged / total.clamp_min(torch.finfo(total.dtype).tiny)[..., None], total
