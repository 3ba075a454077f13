"""FiCoCo-V: inside the tower, redundant tokens go into those that they attend to."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, pool, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cells, order_mask, ranking, top_in_groups

GONE, PATCHES = 42, 576


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    """42 of 576 tokens go in each of the blocks 12 to 22 of 24."""
    return tuple(PresetStage("vision", 1 - GONE * i / PATCHES, (11 + i, 24)) for i in range(1, 12))


def targets(logits: Tensor, quantile: float) -> tuple[Tensor, Tensor]:
    """Return where tokens go and in what shares: to the tokens above a quantile of their logits.

    Args:
        logits: (R, M) of the tokens that go, over those they may go to.
        quantile: the share of a row's logits (linear between two) that the targets are above.

    Returns:
        (R, m) int64 and (R, m) float32, by falling logit; m is the same for all rows and at least 1.
    """
    last = logits.shape[1] - 1
    m = max(last - floor(quantile * last), 1)
    columns = ranking(logits)[:, :m]
    return columns, logits.gather(1, columns).softmax(-1)


@dataclass(frozen=True)
class FiCoCoV(Reducer):
    """Let tokens go that attend much to the others and to which CLS doesn't; add them to those they attend to.

    A token's score is its CLS logit against the mean logit it gives to all tokens (both as shares of their
    length). The lowest score of each window is pushed further down, each token at most once. What goes is added
    to the tokens of its highest logits, weighted by their softmax, and they are divided by the weights they
    hold.

    Source: Filter, Correlate, Compress: Training-Free Token Reduction for MLLM Acceleration, arXiv 2411.17686.
    Differs: targets are tokens that stay, and the quantile is one among them (in the authors' code all tokens
        and CLS are, and their indices address a list in another order). Which windows were pushed down is
        known by place in the grid and forgotten after an image (theirs goes on, by place in the shortened
        list). CLS stays where it is, tokens stay in the image's order (theirs go by rising score, CLS last).
        Ties go to the lowest index.
    Cost: the map of logits once more, 2 N^2 D.
    """

    name: ClassVar[str] = "ficoco_v"
    title: ClassVar[str] = "FiCoCo-V"
    source: ClassVar[Source] = Source(
        "Filter, Correlate, Compress: Training-Free Token Reduction for MLLM Acceleration", "2411.17686"
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_logits", "block_cls_logits")
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("ficoco_v", _published, note="42 of 576 tokens go in each block of the tower's second half"),
    )

    beta: float = param(0.35, low=0.0, high=1.0, help="Weight of CLS against redundancy.")
    quantile: float = param(
        0.998, low=0.9, high=0.999, help="Share of the logits below those of the targets."
    )
    window: int = param(2, low=1, high=6, search=False, help="Side of a window in tokens.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        order = self._order(view)
        count = budgets(view, budget)
        gone = order_mask(order, view.counts - count, order.shape[1])
        frame = select(view.valid & ~gone)
        logits = view.signals["block_logits"].float()
        b, k = frame.anchors.shape
        matrix = torch.zeros(b, k, frame.tokens, device=logits.device)
        matrix.scatter_(2, frame.anchors[..., None], frame.valid[..., None].float())
        for row in range(b):
            away, kept = gone[row].nonzero()[:, 0], frame.anchors[row, : int(frame.kept[row])]
            if len(away) and len(kept):
                into, weight = targets(logits[row, away][:, kept], self.quantile)
                matrix[row, into, away[:, None].expand_as(into)] = weight
        return pool(matrix, frame.anchors, frame.valid, normalise="count")

    def score(self, view: TokenView) -> Tensor:
        """Return (B, N) how much CLS attends to a token against how much it attends to all; low ones go."""
        cls = view.signals["block_cls_logits"].float().masked_fill(~view.valid, 0)
        pair = view.valid[:, :, None] & view.valid[:, None]
        given = view.signals["block_logits"].float().masked_fill(~pair, 0).sum(-1)
        return self.beta * _over_length(cls) - (1 - self.beta) * _over_length(given)

    def _order(self, view: TokenView) -> Tensor:
        """Return (B, N) indices by rising score, the first to go in front, padding last."""
        score = self.score(view)
        pushed = torch.where(score > 0, score / 2, score * 2)
        return ranking(-torch.where(self._lowest(view, score), pushed, score), view.valid)

    def _lowest(self, view: TokenView, score: Tensor) -> Tensor:
        """Mark (B, N) the lowest score of each window among the tokens not marked in an earlier block."""
        place = view.source.masked_fill(~view.valid, 0)
        room = max(t * h * w for t, h, w in view.grids)
        known = view.state.setdefault("pushed", torch.zeros_like(view.valid[:, :1]).repeat(1, room))
        fresh = view.valid & ~known.gather(1, place)
        found = top_in_groups(-score, cells(view.source, view.grids, self.window), 1, fresh)
        view.state["pushed"] = known.scatter_reduce(1, place, found, reduce="amax")
        return found

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n**2


def _over_length(values: Tensor) -> Tensor:
    """Divide (B, N) by its length."""
    return values / values.norm(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
