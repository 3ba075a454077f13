"""The rows of a vision tower: which belong to which visual token, and how they are cut.

Two forms: `Batched`, one sequence an image behind some prefix rows (CLIP); `Packed`, all images in one
sequence, in the tower's own order, each token a group of consecutive rows (Qwen).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from autotc.assignment import Assignment

TOKEN_AXES = {
    "cls": (2,),
    "cls_logits": (2,),
    "received": (2,),
    "keys": (1,),
    "wide_row": (1,),
    "wide_keys": (1,),
    "values": (2,),
    "value_row": (2,),
    "map": (1, 2),
    "logits": (1, 2),
    "logits_row": (1,),
}
"""Which axes of what an attention call shows run over its rows, by kind."""


class TowerRows(Protocol):
    """What the vision site needs to know and do; I images, N tokens left, N0 original tokens."""

    source: Tensor
    valid: Tensor
    size: Tensor

    def tokens(self, hidden: Tensor) -> Tensor:
        """Return the visual tokens (I, N, D); a group's rows side by side would be D = members x width:
        their mean.
        """

    def shorten(self, hidden: Tensor, assignment: Assignment) -> Tensor:
        """Apply an assignment on the tokens and remember it; return the shorter hidden state."""

    def arguments(self, kwargs: dict[str, Any], bias: Tensor | None, hidden: Tensor) -> dict[str, Any]:
        """Return a block's keyword arguments (masks, rotary positions, boundaries) for the rows left."""

    def log_sizes(self) -> Tensor:
        """Return log sizes of the rows left, for proportional attention."""

    def chunk_bias(self, queries: Tensor, biased: bool) -> Tensor | None:
        """Return the mask of one attention call, where it can't be passed as an argument of the block; `biased` adds
        log sizes.
        """

    def real(self, calls: int) -> Tensor | None:
        """Return which query rows are no padding, (I, S), or None for all."""

    def collect(self, found: dict[str, Tensor], length: int) -> dict[str, Tensor] | None:
        """Take the values of one attention call; return all of a block, by source, when they are complete."""

    def leave(self, hidden: Tensor) -> Tensor:
        """Return the last block's output at full length, where something other than the projector comes next."""

    def entering(self, features: Tensor) -> Tensor:
        """Return the projector's input for the tokens left."""

    def projected(self, features: Tensor) -> Tensor:
        """Return the projector's input as tokens (I, N, D)."""

    def by_source(self, tokens: Tensor) -> Tensor:
        """Return (I, N0, D) with zeros where tokens are gone."""

    def scatter(self, output: Tensor) -> Tensor:
        """Return the projector's output at full length, with zeros where tokens are gone."""

    def gathered(self, output: Tensor) -> Tensor:
        """Return a projector's output for the tokens left by image, (I, N, D)."""

    def scattered(self, tokens: Tensor) -> Tensor:
        """Return what `gathered` gave at full length in the projector's order, with zeros where tokens are gone."""


class _Rows:
    """What all forms share."""

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        most = max(counts)
        self.full = most
        n = torch.tensor(counts, device=device)
        index = torch.arange(most, device=device).expand(len(counts), most)
        self.valid = index < n[:, None]
        self.source = torch.where(self.valid, index, 0)
        self.size = self.valid.float()

    def _left(self, assignment: Assignment) -> None:
        self.source = self.source.gather(1, assignment.anchors)
        self.size = assignment.sizes(self.size)
        self.valid = assignment.valid

    def leave(self, hidden: Tensor) -> Tensor:
        return hidden

    def entering(self, features: Tensor) -> Tensor:
        return features

    def gathered(self, output: Tensor) -> Tensor:
        return output

    def scattered(self, tokens: Tensor) -> Tensor:
        return self.by_source(tokens)

    def by_source(self, tokens: Tensor) -> Tensor:
        out = tokens.new_zeros(len(tokens), self.full, tokens.shape[-1])
        image, place = self.valid.nonzero(as_tuple=True)
        out[image, self.source[image, place]] = tokens[image, place]
        return out


class Batched(_Rows):
    """One sequence an image: prefix rows, then one row a token, padded on the right after an uneven cut."""

    def __init__(self, counts: Sequence[int], prefix: int, device: torch.device) -> None:
        super().__init__(counts, device)
        self.prefix = prefix
        self.even = True

    def tokens(self, hidden: Tensor) -> Tensor:
        return hidden[:, self.prefix :]

    def shorten(self, hidden: Tensor, assignment: Assignment) -> Tensor:
        tokens = assignment.apply(hidden[:, self.prefix :], self.size)
        self._left(assignment)
        self.even = bool(self.valid.all())
        return torch.cat([hidden[:, : self.prefix], tokens], 1)

    def log_sizes(self) -> Tensor:
        sizes = torch.nn.functional.pad(self.size.clamp_min(1e-9).log(), (self.prefix, 0))
        return sizes[:, None, None, :]

    def arguments(self, kwargs: dict[str, Any], bias: Tensor | None, hidden: Tensor) -> dict[str, Any]:
        mask = None if bias is None else bias.to(hidden.dtype)
        if not self.even:
            padding = ~torch.nn.functional.pad(self.valid, (self.prefix, 0), value=True)[:, None, None, :]
            mask = hidden.new_zeros(padding.shape) if mask is None else mask
            mask = mask.masked_fill(padding, torch.finfo(hidden.dtype).min)
        return {**kwargs, "attention_mask": mask}

    def chunk_bias(self, queries: Tensor, biased: bool) -> Tensor | None:
        return None

    def real(self, calls: int) -> Tensor | None:
        return None if self.even else torch.nn.functional.pad(self.valid, (self.prefix, 0), value=True)

    def collect(self, found: dict[str, Tensor], length: int) -> dict[str, Tensor] | None:
        out = {}
        for kind, values in found.items():
            if kind == "received":
                values = values / (self.valid.sum(1) + self.prefix)[:, None, None]
            for axis in TOKEN_AXES[kind]:
                tokens = values.movedim(axis, 1)[:, self.prefix :]
                whole = self.by_source(tokens.reshape(*tokens.shape[:2], -1))
                values = whole.view(*whole.shape[:2], *tokens.shape[2:]).movedim(1, axis)
            out[kind] = values
        return out

    def projected(self, features: Tensor) -> Tensor:
        return features

    def scatter(self, output: Tensor) -> Tensor:
        return self.by_source(output)


class Packed(_Rows):
    """All images in one sequence; a token is `members` consecutive rows; images are contiguous.

    Args:
        counts: tokens of each image.
        members: rows of a token.
        order: for each place, the token's index over all images; None: the same order.
    """

    def __init__(
        self, counts: Sequence[int], members: int, order: Tensor | None, device: torch.device
    ) -> None:
        super().__init__(counts, device)
        self.members, self.total = members, sum(counts)
        order = torch.arange(self.total, device=device) if order is None else order
        place = torch.argsort(order)  # language-model index -> place in the tower
        self.at = torch.zeros_like(self.source)  # (I, N) place of each token among the groups left
        self.at[self.valid] = place
        self.origin = torch.arange(self.total, device=device)  # first place of each group left
        self.seen: dict[int, tuple[Tensor, Tensor, int | None]] = {}
        self.chunks: list[dict[str, Tensor]] = []
        self.taken = 0
        self.counts = torch.tensor(counts, device=device)

    def tokens(self, hidden: Tensor) -> Tensor:
        groups = hidden.view(-1, self.members, hidden.shape[-1]).mean(1)
        return groups[self.at] * self.valid[..., None]

    def shorten(self, hidden: Tensor, assignment: Assignment) -> Tensor:
        groups = hidden.reshape(len(self.origin), -1)
        if not assignment.one_hot:
            merged = assignment.apply(groups[self.at] * self.valid[..., None], self.size)
            groups = groups.clone()
            anchors = self.at.gather(1, assignment.anchors)
            groups[anchors[assignment.valid]] = merged[assignment.valid].to(groups.dtype)
        keep = torch.zeros(len(self.origin), dtype=torch.bool, device=hidden.device)
        self.at = self.at.gather(1, assignment.anchors)
        self._left(assignment)
        keep[self.at[self.valid]] = True
        moved = keep.long().cumsum(0) - 1
        self.at = torch.where(self.valid, moved[self.at], 0)
        self.origin = self.origin[keep]
        self.seen.clear()
        return groups[keep].view(-1, hidden.shape[-1])

    def log_sizes(self) -> Tensor:
        sizes = torch.ones(len(self.origin), device=self.size.device)
        sizes[self.at[self.valid]] = self.size[self.valid]
        return sizes.log().repeat_interleave(self.members)

    def arguments(self, kwargs: dict[str, Any], bias: Tensor | None, hidden: Tensor) -> dict[str, Any]:
        rows = self._rows()
        bounds: Tensor = kwargs["cu_seqlens"]
        if id(bounds) not in self.seen:
            kept = torch.zeros(self.total * self.members, dtype=bounds.dtype, device=bounds.device)
            kept[rows] = 1
            left = torch.nn.functional.pad(kept.cumsum(0, dtype=bounds.dtype), (1, 0))[bounds.long()]
            left = torch.unique_consecutive(left)
            longest = int(left.diff().max()) if kwargs.get("max_seqlen") is not None else None
            self.seen[id(bounds)] = (bounds, left, longest)  # the key tensor is held, so its id stays its own
        _, left, longest = self.seen[id(bounds)]
        cos, sin = kwargs["position_embeddings"]
        changed = {"cu_seqlens": left, "position_embeddings": (cos[rows], sin[rows])}
        if longest is not None:
            changed["max_seqlen"] = longest
        return {**kwargs, **changed}

    def _rows(self) -> Tensor:
        inner = torch.arange(self.members, device=self.origin.device)
        return (self.origin[:, None] * self.members + inner).flatten()

    def chunk_bias(self, queries: Tensor, biased: bool) -> Tensor | None:
        if not biased:
            return None
        start = self.taken
        bias = self.log_sizes()[start : start + queries.shape[2]].to(queries.dtype)
        return bias[None, None, None, :]

    def real(self, calls: int) -> Tensor | None:
        return None

    def collect(self, found: dict[str, Tensor], length: int) -> dict[str, Tensor] | None:
        self.taken += length
        self.chunks.append(found)
        if self.taken < len(self.origin) * self.members:
            return None
        out = {}
        queries = (self.valid.sum(1) * self.members)[:, None, None]
        for kind in found:
            (axis,) = TOKEN_AXES[kind]
            rows = torch.cat([chunk[kind] for chunk in self.chunks], axis)[0].movedim(axis - 1, 0)
            groups = rows.flatten(1).view(len(self.origin), self.members, -1).mean(1)
            tokens = self.by_source(groups[self.at]).unflatten(2, rows.shape[1:]).movedim(1, axis)
            out[kind] = tokens / queries if kind == "received" else tokens
        self.chunks, self.taken = [], 0
        return out

    def projected(self, features: Tensor) -> Tensor:
        return self.tokens(features)

    def scatter(self, output: Tensor) -> Tensor:
        full = output.new_zeros(self.total, output.shape[-1])
        full[self.origin] = output
        return full

    def gathered(self, output: Tensor) -> Tensor:
        return output[self.at] * self.valid[..., None]

    def scattered(self, tokens: Tensor) -> Tensor:
        full = tokens.new_zeros(self.total, tokens.shape[-1])
        full[self.origin[self.at[self.valid]]] = tokens[self.valid]
        return full
