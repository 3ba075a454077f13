"""The rows of a tower that shuffles pixels: one sequence an image, a token is a square of patches (InternVL)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autotc._rows import TOKEN_AXES, _Rows
from autotc.assignment import Assignment


class Grouped(_Rows):
    """One sequence an image: prefix rows, then the rows of all tokens, padded on the right after an uneven cut.

    Until the first cut the rows of a token stand where the tower has put its patches; from then on they stand
    together. Blocks can't tell, positions were added before them; `leave` puts the rows back for what follows.

    Args:
        counts: tokens of each image.
        prefix: rows before the patches.
        members: (N, M) int64, the rows of each token, counted behind the prefix.
    """

    def __init__(self, counts: Sequence[int], prefix: int, members: Tensor, device: torch.device) -> None:
        super().__init__(counts, device)
        self.prefix, self.members = prefix, members
        self.even = True
        self.cut = False

    def _groups(self, rows: Tensor) -> Tensor:
        """Return what stands in the rows behind the prefix, (I, R, ...), by token: (I, N, M, ...)."""
        return rows.unflatten(1, (-1, self.members.shape[1])) if self.cut else rows[:, self.members]

    def tokens(self, hidden: Tensor) -> Tensor:
        return self._groups(hidden[:, self.prefix :]).mean(2)

    def shorten(self, hidden: Tensor, assignment: Assignment) -> Tensor:
        groups = self._groups(hidden[:, self.prefix :])
        left = assignment.apply(groups.flatten(2), self.size)
        self._left(assignment)
        self.even, self.cut = bool(self.valid.all()), True
        return torch.cat([hidden[:, : self.prefix], left.unflatten(2, groups.shape[2:]).flatten(1, 2)], 1)

    def arguments(self, kwargs: dict[str, Any], bias: Tensor | None, hidden: Tensor) -> dict[str, Any]:
        return kwargs

    def _of_rows(self, tokens: Tensor, prefix: Any) -> Tensor:
        """Return a value of each token (I, N) as one of each row, (I, S)."""
        rows = tokens.repeat_interleave(self.members.shape[1], 1)
        return torch.nn.functional.pad(rows, (self.prefix, 0), value=prefix)

    def log_sizes(self) -> Tensor:
        return self._of_rows(self.size.clamp_min(1e-9).log(), 0.0)[:, None, None]

    def chunk_bias(self, queries: Tensor, biased: bool) -> Tensor | None:
        mask = self.log_sizes().to(queries.dtype) if biased else None
        if not self.even:
            padding = ~self._of_rows(self.valid, True)[:, None, None]
            mask = queries.new_zeros(padding.shape) if mask is None else mask
            mask = mask.masked_fill(padding, torch.finfo(queries.dtype).min)
        return mask

    def real(self, calls: int) -> Tensor | None:
        return None if self.even else self._of_rows(self.valid, True)

    def collect(self, found: dict[str, Tensor], length: int) -> dict[str, Tensor] | None:
        out = {}
        for kind, values in found.items():
            if kind == "received":
                queries = self.valid.sum(1) * self.members.shape[1] + self.prefix
                values = values / queries[:, None, None]
            for axis in TOKEN_AXES[kind]:
                tokens = self._groups(values.movedim(axis, 1)[:, self.prefix :]).mean(2)
                whole = self.by_source(tokens.reshape(*tokens.shape[:2], -1))
                values = whole.view(*whole.shape[:2], *tokens.shape[2:]).movedim(1, axis)
            out[kind] = values
        return out

    def leave(self, hidden: Tensor) -> Tensor:
        full = hidden.new_zeros(len(hidden), self.prefix + self.members.numel(), hidden.shape[-1])
        full[:, : self.prefix] = hidden[:, : self.prefix]
        groups = self._groups(hidden[:, self.prefix :])
        back = self.by_source(groups.flatten(2)).unflatten(2, groups.shape[2:])
        full[:, self.prefix + self.members.flatten()] = back.flatten(1, 2)
        return full

    def entering(self, features: Tensor) -> Tensor:
        source = self.source[..., None].expand(*self.source.shape, features.shape[-1])
        return features.gather(1, source)

    def projected(self, features: Tensor) -> Tensor:
        return features.unflatten(2, (self.members.shape[1], -1)).mean(2)

    def scatter(self, output: Tensor) -> Tensor:
        return self.by_source(output)
