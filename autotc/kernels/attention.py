"""Attention that a fused kernel doesn't hand out: one row, or what each token receives."""

from __future__ import annotations

import torch
from torch import Tensor


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
