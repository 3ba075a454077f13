"""Comparing merged tokens with those of code that emits them in another order."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_same_tokens(out: Tensor, theirs: Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> Tensor:
    """Assert that two sets of tokens (K, D) are the same in some order; return the order of `theirs`."""
    assert out.shape == theirs.shape
    order = (out[:, None] - theirs[None]).abs().amax(-1).argmin(1)
    assert sorted(order.tolist()) == list(range(len(out))), "two tokens of one answer match one of the other"
    torch.testing.assert_close(out, theirs[order], rtol=rtol, atol=atol)
    return order
