"""The decision of a reducer: a row-sparse K x N matrix a sequence, and its algebra.

Each row says which tokens go into an output token and with what weight; its `anchor` is the place where the output
stands. Pruning is one-hot rows; merging, pooling, recycling and soft methods are the other patterns. Stages compose
by product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from autotc import kernels

Normalise = Literal["size", "count", "none"]


@dataclass(frozen=True)
class Rows:
    """A batch of row-sparse matrices in one CSR: row b * K + k, column b * N + n.

    Args:
        offsets: (B * K + 1,) int64, where each row starts in `columns`.
        columns: (nnz,) int64.
        weights: (nnz,) float.
    """

    offsets: Tensor
    columns: Tensor
    weights: Tensor

    @property
    def row_of(self) -> Tensor:
        """(nnz,) the row of each entry."""
        counts = self.offsets.diff()
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


@dataclass(frozen=True)
class Assignment:
    """A reducer's decision for B sequences of `tokens` tokens.

    Args:
        anchors: (B, K) int64, ascending positions of the rows that come out; rows that are not valid come last
            and repeat position 0.
        valid: (B, K) bool; rows that exist (sequences of a batch may keep different numbers).
        rows: the sparse weights; a row that is not valid is empty.
        tokens: N, the number of columns.
        normalise: divide a row by the sum of weight times size, of weight, or not at all.
    """

    anchors: Tensor
    valid: Tensor
    rows: Rows
    tokens: int
    normalise: Normalise = "none"

    @property
    def kept(self) -> Tensor:
        """(B,) int64, the number of valid rows."""
        return self.valid.sum(1)

    @property
    def one_hot(self) -> bool:
        """Whether every row is just its anchor (pruning), so that applying it is a gather."""
        return self.normalise == "none" and self._is_gather

    @property
    def _is_gather(self) -> bool:
        counts = self.rows.offsets.diff()
        flat = self.valid.flatten()
        if not torch.equal(counts, flat.long()):
            return False
        base = torch.arange(len(self.anchors), device=self.anchors.device)[:, None] * self.tokens
        anchors = (self.anchors + base).flatten()[flat]
        return torch.equal(self.rows.columns, anchors) and bool((self.rows.weights == 1).all())

    def apply(self, x: Tensor, size: Tensor | None = None) -> Tensor:
        """Return the output tokens (B, K, D) for tokens x (B, N, D); rows that are not valid are zero.

        Args:
            x: (B, N, D).
            size: (B, N) how many originals a token stands for; ones by default. Only `normalise="size"` reads it.
        """
        b, k = self.anchors.shape
        if self.one_hot:
            valid = None if bool(self.valid.all()) else self.valid
            return kernels.gather_rows([x], self.anchors, valid)[0]
        flat, weights = x.reshape(-1, x.shape[-1]), self._weights(size)
        return kernels.sum_rows(flat, self.rows.offsets, self.rows.columns, weights).view(b, k, -1)

    def sizes(self, size: Tensor) -> Tensor:
        """Return how many originals each output token stands for, (B, K), from the inputs' sizes (B, N)."""
        b, k = self.anchors.shape
        out = torch.zeros(b * k, dtype=size.dtype, device=size.device)
        out.index_add_(0, self.rows.row_of, size.flatten()[self.rows.columns])
        return out.view(b, k)

    def dense(self, size: Tensor | None = None) -> Tensor:
        """Return the normalised matrix (B, K, N): `dense(size) @ x` equals `apply(x, size)`."""
        b, k = self.anchors.shape
        weights = self._weights(size)
        out = torch.zeros(b * k, self.tokens, dtype=weights.dtype, device=weights.device)
        out.index_put_((self.rows.row_of, self.rows.columns % max(self.tokens, 1)), weights, accumulate=True)
        return out.view(b, k, self.tokens)

    def compose(self, after: Assignment, size: Tensor | None = None) -> Assignment:
        """Return one assignment that does this one and then `after`; sizes are those before this one.

        The product is explicit (normalised rows), so the result's `normalise` is "none".
        """
        mid = None if size is None else self.sizes(size)
        first, second = self._weights(size), after._weights(mid)
        # every entry of a row of `after` is a row of this one: write out all pairs, then add up equal places
        counts = self.rows.offsets.diff()[after.rows.columns]
        pair = torch.arange(len(second), device=second.device).repeat_interleave(counts)
        step = torch.arange(len(pair), device=second.device) - (counts.cumsum(0) - counts)[pair]
        entry = self.rows.offsets[after.rows.columns][pair] + step
        width = len(self.anchors) * self.tokens
        place, inverse = torch.unique(
            after.rows.row_of[pair] * width + self.rows.columns[entry], return_inverse=True
        )
        weights = torch.zeros(len(place), dtype=first.dtype, device=first.device)
        weights.index_add_(0, inverse, second[pair].to(first.dtype) * first[entry])
        kept = weights != 0
        counts = torch.bincount(place[kept] // max(width, 1), minlength=after.anchors.numel())
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        rows = Rows(offsets, place[kept] % max(width, 1), weights[kept])
        anchors = torch.where(after.valid, self._places(after), 0)
        return Assignment(anchors, after.valid, rows, self.tokens)

    def _places(self, after: Assignment) -> Tensor:
        """(B, K) where the rows of `after` stand among this assignment's own tokens."""
        if not self.anchors.shape[1]:
            return torch.zeros_like(after.anchors)
        return self.anchors.gather(1, after.anchors)

    def _weights(self, size: Tensor | None) -> Tensor:
        """Normalised weights (nnz,)."""
        weights, row_of = self.rows.weights, self.rows.row_of
        if self.normalise == "none":
            return weights
        if self.normalise == "size" and size is not None:
            weights = weights * size.flatten()[self.rows.columns].to(weights.dtype)
        total = torch.zeros(self.anchors.numel(), dtype=weights.dtype, device=weights.device)
        total.index_add_(0, row_of, weights)
        return weights / total[row_of]


def select(keep: Tensor) -> Assignment:
    """Keep the marked tokens, in their order.

    Args:
        keep: (B, N) bool.
    """
    b, n = keep.shape
    kept = keep.sum(1)
    k = int(kept.max()) if b else 0
    order = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)[:, :k]
    valid = torch.arange(k, device=keep.device)[None] < kept[:, None]
    anchors = torch.where(valid, order, 0)
    offsets = torch.nn.functional.pad(valid.flatten().long().cumsum(0), (1, 0))
    base = torch.arange(b, device=keep.device)[:, None] * n
    columns = (anchors + base)[valid]
    return Assignment(anchors, valid, Rows(offsets, columns, torch.ones(len(columns), device=keep.device)), n)


def select_indices(indices: Tensor, n: int, valid: Tensor | None = None) -> Assignment:
    """Keep the tokens at `indices` (B, K), in any order, of sequences of n tokens; `valid` (B, K) marks real ones."""
    keep = torch.zeros(len(indices), n, dtype=torch.bool, device=indices.device)
    if valid is None:
        keep.scatter_(1, indices, True)
    else:
        keep.scatter_reduce_(1, indices, valid, reduce="amax")
    return select(keep)


def merge(
    target: Tensor,
    weights: Tensor | None = None,
    normalise: Normalise = "size",
    anchors: Tensor | None = None,
) -> Assignment:
    """Send every token to a target token; tokens with target -1 are dropped.

    Args:
        target: (B, N) int64, the position of the token each token goes into, or -1. A token that receives others
            must be its own target.
        weights: (B, N) weight of each token in its row; ones by default.
        normalise: see `Assignment`.
        anchors: (B, N) for a row standing at target t, the place it takes; t itself by default.
    """
    b, n = target.shape
    alive = target >= 0
    heads = torch.zeros(b, n, dtype=torch.bool, device=target.device)
    heads.scatter_reduce_(1, target.clamp_min(0), alive, reduce="amax")
    frame = select(heads)
    k = frame.anchors.shape[1]
    rank = heads.long().cumsum(1) - 1
    row = rank.gather(1, target.clamp_min(0)) + torch.arange(b, device=target.device)[:, None] * k
    columns = torch.arange(b * n, device=target.device).view(b, n)
    entries = torch.where(alive, row, b * k).flatten()
    order = torch.argsort(entries, stable=True)[: int(alive.sum())]
    counts = torch.bincount(entries[order], minlength=b * k)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    values = torch.ones(b, n, device=target.device) if weights is None else weights.float()
    rows = Rows(offsets, columns.flatten()[order], values.flatten()[order])
    places = (
        frame.anchors if anchors is None else torch.where(frame.valid, anchors.gather(1, frame.anchors), 0)
    )
    return Assignment(places, frame.valid, rows, n, normalise)


def pool(
    matrix: Tensor, anchors: Tensor, valid: Tensor | None = None, normalise: Normalise = "none"
) -> Assignment:
    """Build an assignment from a dense matrix (B, K, N) of weights with places (B, K), sorted by place."""
    valid = torch.ones_like(anchors, dtype=torch.bool) if valid is None else valid
    order = torch.argsort(torch.where(valid, anchors, matrix.shape[2]), dim=1, stable=True)
    matrix = matrix.gather(1, order[..., None].expand_as(matrix))
    built = _from_dense(matrix, anchors.gather(1, order), valid.gather(1, order))
    return Assignment(built.anchors, built.valid, built.rows, built.tokens, normalise)


def identity(b: int, n: int, device: torch.device | None = None) -> Assignment:
    """Keep everything."""
    return select(torch.ones(b, n, dtype=torch.bool, device=device))


def _from_dense(matrix: Tensor, anchors: Tensor, valid: Tensor) -> Assignment:
    b, k, n = matrix.shape
    matrix = matrix * valid[..., None]
    entries = matrix.reshape(b * k, n).nonzero()
    counts = torch.bincount(entries[:, 0], minlength=b * k)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    columns = entries[:, 1] + entries[:, 0].div(max(k, 1), rounding_mode="floor") * n
    weights = matrix.reshape(b * k, n)[entries[:, 0], entries[:, 1]]
    return Assignment(torch.where(valid, anchors, 0), valid, Rows(offsets, columns, weights), n)
