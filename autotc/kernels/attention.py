"""Attention that a fused kernel doesn't hand out: one row, or what each token receives."""

from __future__ import annotations

import torch
from torch import Tensor

from autotc.kernels.dispatch import operation


def attention_row(query: Tensor, keys: Tensor, scale: float | None = None) -> Tensor:
    """Return the softmax row of one query a head.

    Args:
        query: (B, H, hd).
        keys: (B, H, N, hd).
        scale: of the logits; hd ** -0.5 by default.

    Returns:
        (B, H, N) float32.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = torch.einsum("bhd,bhnd->bhn", query.float(), keys.float()) * scale
    return logits.softmax(-1)


@operation
def attention_received(
    queries: Tensor, keys: Tensor, scale: float | None = None, valid: Tensor | None = None, chunk: int = 256
) -> Tensor:
    """Return what each key receives: the mean over queries of the softmax over keys, in chunks of queries.

    Args:
        queries: (B, H, M, hd).
        keys: (B, H, N, hd).
        scale: of the logits; hd ** -0.5 by default.
        valid: (B, N) bool, real tokens; needs M = N. Padded keys receive 0 and padded queries don't count.
        chunk: queries at a time; bounds the memory.

    Returns:
        (B, H, N) float32.
    """
    scale = queries.shape[-1] ** -0.5 if scale is None else scale
    b, h, m, _ = queries.shape
    columns = keys.float().transpose(-1, -2)
    total = torch.zeros(b, h, keys.shape[2], device=keys.device)
    for at in range(0, m, chunk):
        logits = queries[:, :, at : at + chunk].float() @ columns * scale
        if valid is not None:
            logits = logits.masked_fill(~valid[:, None, None, :], -torch.inf)
        probabilities = logits.softmax(-1)
        if valid is not None:
            probabilities = probabilities * valid[:, None, at : at + chunk, None]
        total += probabilities.sum(2)
    count = torch.full((b,), m, device=keys.device) if valid is None else valid.sum(1)
    return total / count[:, None, None]


def content_attention(query: Tensor, keys: Tensor, valid: Tensor, scale: float) -> Tensor:
    """Return the softmax row of one query a head over the valid keys alone.

    Args:
        query: (B, H, hd).
        keys: (B, G, N, hd), G dividing H.
        valid: (B, N) bool.
        scale: of the logits.

    Returns:
        (B, H, N) float32; zeros where no key is valid.
    """
    logits = _grouped(query[:, :, None].float(), keys.float())[:, :, 0] * scale
    logits = logits.masked_fill(~valid[:, None], -torch.inf)
    return logits.softmax(-1).masked_fill(~valid[:, None], 0)


def mean_query_attention(queries: Tensor, keys: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Return the softmax row of the mean query, over the tokens that also make the mean.

    Args:
        queries: (B, H, S, hd).
        keys: (B, G, S, hd), G dividing H.
        seen: (B, S) bool, the tokens that count.
        scale: of the logits.

    Returns:
        (B, H, S) float32.
    """
    weights = seen[:, None, :, None]
    mean = (queries.float() * weights).sum(2) / weights.sum(2).clamp_min(1)
    return content_attention(mean, keys, seen, scale)


def peak_attention(probabilities: Tensor, valid: Tensor) -> Tensor:
    """Return what each key receives at most from any head, mean over the valid queries.

    Args:
        probabilities: (B, H, Q, N).
        valid: (B, Q) bool.

    Returns:
        (B, N) float32.
    """
    peaks = probabilities.amax(1).float() * valid[..., None]
    return peaks.sum(1) / valid.sum(1).clamp_min(1)[:, None]


def attention_flow(logits: Tensor, tau: float = 0.1, steps: int = 5) -> Tensor:
    """Return where a uniform start goes in some steps along the attention (PageRank without damping).

    Args:
        logits: (B, H, S, S), scaled; what a query doesn't see is at the type's lowest number.
        tau: temperature of the softmax.
        steps: how many.

    Returns:
        (B, H, S) float32.
    """
    weights = (logits.float() / tau).softmax(-1)
    place = torch.full(weights.shape[:3], 1 / weights.shape[-1], device=weights.device)
    for _ in range(steps):
        place = (place[:, :, None] @ weights)[:, :, 0]
    return place


def transition(before: Tensor, after: Tensor, valid: Tensor) -> Tensor:
    """Return how much a module turns and scales each token, shared out over the sequence.

    Args:
        before: (B, S, D) what goes into the module.
        after: (B, S, D) what comes out, before the residual is added.
        valid: (B, S) bool.

    Returns:
        (B, S) float32: ratio of the norms times the softmax over valid tokens of 1 - cosine; 0 at padding.
    """
    before, after = before.float(), after.float()
    ratio = after.norm(dim=-1) / before.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    turn = 1 - torch.nn.functional.cosine_similarity(before, after, dim=-1)
    share = turn.masked_fill(~valid, -torch.inf).softmax(-1)
    return (ratio * share).masked_fill(~valid, 0)


def _grouped(queries: Tensor, keys: Tensor) -> Tensor:
    """Return queries (B, H, Q, hd) times keys (B, G, N, hd), each group of heads with its own keys."""
    b, h, q, width = queries.shape
    groups = keys.shape[1]
    return (queries.reshape(b, groups, h // groups * q, width) @ keys.transpose(-1, -2)).view(b, h, q, -1)
