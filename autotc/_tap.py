"""Signals out of the attention function, without eager attention.

An attention module that is watched hands its queries and keys to a watcher and then runs the model's own
attention function, so that the output is bit-identical. A watcher may also return a mask to use instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autotc import kernels

Watcher = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor | None]
_WATCH = "_autotc_watch"
_PREFIX = "autotc_"
BASES = ("sdpa", "eager")


class Tap:
    """Watches attention modules until `close`.

    Args:
        watchers: attention module -> called with queries (B, H, R, hd), keys and values (B, G, S, hd), the
            mask and the scale.
    """

    def __init__(self, watchers: dict[nn.Module, Watcher]) -> None:
        self._modules = list(watchers)
        self._configs: list[tuple[Any, str]] = []
        for module, watcher in watchers.items():
            setattr(module, _WATCH, watcher)
        for config in _distinct(module.config for module in watchers):
            base = config._attn_implementation
            _register(base)
            self._configs.append((config, base))
            config._attn_implementation = _PREFIX + base

    def close(self) -> None:
        """Put everything back."""
        for module in self._modules:
            if hasattr(module, _WATCH):
                delattr(module, _WATCH)
        for config, base in self._configs:
            config._attn_implementation = base
        self._modules, self._configs = [], []


def base_name(implementation: str | None) -> str:
    """Return the attention implementation behind a tapped one."""
    return (implementation or "").removeprefix(_PREFIX)


def _distinct(configs: Iterable[Any]) -> list[Any]:
    return list({id(config): config for config in configs}.values())


def _register(base: str) -> None:
    """Register the tapped twin of an attention function, and a mask function of the same name (else masks
    are lost).
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def tapped(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> Any:
        own = ALL_ATTENTION_FUNCTIONS[base] if base != "eager" else _eager(module)
        watcher: Watcher | None = getattr(module, _WATCH, None)
        if watcher is not None:
            scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
            other = watcher(query, key, value, attention_mask, scale)
            attention_mask = attention_mask if other is None else other
        return own(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(_PREFIX + base, tapped)
    AttentionMaskInterface.register(_PREFIX + base, ALL_MASK_ATTENTION_FUNCTIONS[base])


def _eager(module: nn.Module) -> Callable[..., Any]:
    """Each modelling file has its own eager function."""
    function: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
    return function


def attention_rows(queries: Tensor, keys: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Return attention probabilities (B, H, R, S) of some query rows, softmax in float32 or wider.

    Args:
        queries: (B, H, R, hd).
        keys: (B, G, S, hd), G dividing H.
        seen: (B, R, S) bool, which keys a row sees.
        scale: factor of the logits.
    """
    b, h, r, width = queries.shape
    groups = keys.shape[1]
    grouped = queries.reshape(b, groups, h // groups * r, width)
    logits = (grouped @ keys.transpose(-1, -2)).view(b, h, r, -1) * scale
    logits = logits.masked_fill(~seen[:, None], torch.finfo(logits.dtype).min)
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def received_sum(
    queries: Tensor, keys: Tensor, mask: Tensor | None, scale: float, real: Tensor | None
) -> Tensor:
    """Return the attention that each key receives, summed over (real) query rows: (B, H, S).

    Args:
        queries, keys: (B, H, S, hd).
        mask: additive or boolean mask that broadcasts to (B, H, S, S).
        scale: factor of the logits.
        real: (B, S) bool, query rows that count; all when None.
    """
    if mask is None and real is None and queries.is_cuda:
        return kernels.attention_received(queries, keys, scale) * queries.shape[2]
    total = torch.zeros(queries.shape[:3], device=queries.device, dtype=_wide(queries))
    step = max(1, 2**24 // max(queries.shape[0] * queries.shape[1] * keys.shape[2], 1))  # bounds the memory
    for start in range(0, queries.shape[2], step):
        logits = queries[:, :, start : start + step] @ keys.transpose(-1, -2) * scale
        if mask is not None:
            part = mask if mask.shape[-2] == 1 else mask[..., start : start + step, :]
            zero = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~part, zero) if part.dtype == torch.bool else logits + part
        weights = logits.softmax(-1, dtype=total.dtype)
        if real is not None:
            weights = weights * real[:, None, start : start + step, None]
        total += weights.sum(2)
    return total


def mean_logits(queries: Tensor, keys: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return the logits (B, S, S), mean over heads, one head at a time to bound the memory.

    Args:
        queries, keys: (B, H, S, hd).
        mask: additive mask that broadcasts to (B, H, S, S).
        scale: factor of the logits.
    """
    total = sum(q @ k.transpose(-1, -2) for q, k in zip(queries.unbind(1), keys.unbind(1), strict=True))
    mean: Tensor = total.to(_wide(queries)) * (scale / queries.shape[1])  # type: ignore[union-attr]
    return mean if mask is None else mean + mask.mean(1)


def mean_attention(queries: Tensor, keys: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return the attention map (B, S, S), mean over heads; arguments as for `mean_logits`."""
    total = torch.zeros(())
    for h in range(queries.shape[1]):
        logits = queries[:, h] @ keys[:, h].transpose(-1, -2) * scale
        logits = logits if mask is None else logits + mask.expand(-1, queries.shape[1], -1, -1)[:, h]
        total = total + logits.softmax(-1, dtype=_wide(queries))
    return total / queries.shape[1]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions (B, S, hd) to queries or keys (B, H, S, hd), halves paired."""
    cos, sin = cos[:, None], sin[:, None]
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
