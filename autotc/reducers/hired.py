"""HiRED: tiles get budgets by early CLS attention to the whole image, and keep what late CLS attention prefers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.crops import crop_cells, pairs
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import heads, top_mask


def tile_shares(early: Tensor, tiles: int, marked: int, total: int) -> Tensor:
    """Return (tiles,) int64, how many tokens each tile of an image gets, rounded down.

    Args:
        early: (N,) early attention to the tokens of the base view, in the order of its grid.
        tiles: the view is cut into as many runs of equal length; each speaks for one tile.
        marked: the tokens of highest attention that count.
        total: what is shared out, in proportion to a run's marked tokens.
    """
    marks = top_mask(early[None], marked)[0].nonzero()[:, 0]
    found = torch.bincount(marks * tiles // len(early), minlength=tiles).float()
    return (found / found.sum().clamp_min(1) * total).floor().long()


@dataclass(frozen=True)
class HiRED(Reducer):
    """Keep the tokens of highest CLS attention late in the tower; tiles share a budget by early attention.

    The base view gets a fixed share of an image's budget. Its own early attention says how the rest is shared
    among the tiles. An image that is one view keeps the highest late attention.

    Source: HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution Vision-Language
        Models, arXiv 2408.10945.
    Differs: as in the authors' code a tile's share is read from a run of the base view's rows, the first run for
        the first tile, not from the place that the tile shows. Padding takes no part. Newline embeddings, which
        the authors leave out, come last. What rounding down leaves goes to the best tokens left, crops first
        (`fill`); theirs is lost. A tower without a CLS row is read by received attention. Ties go to the
        lowest index.
    Cost: two attention rows, 4 N D, and sorts; with received attention 4 N^2 D.
    """

    name: ClassVar[str] = "hired"
    title: ClassVar[str] = "HiRED"
    source: ClassVar[Source] = Source(
        "HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution Vision-Language "
        "Models",
        "2408.10945",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("first_cls_attention", "cls_attention")
    instead: ClassVar[Mapping[str, str]] = {
        "first_cls_attention": "first_received_attention",
        "cls_attention": "received_attention",
    }
    joint: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("hired", lambda anatomy: (PresetStage("projector", 0.2),), "compact", "a fifth of the tokens"),
    )

    alpha: float = param(0.5, low=0.1, high=0.9, help="Share of an image's budget that its base view gets.")
    fill: bool = param(True, search=False, help="Give what rounding leaves to the best of the other tokens.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        early, late = (
            heads(view.signals[name if name in view.signals else self.instead[name]]) for name in self.needs
        )
        count = budgets(view, budget)
        keep = top_mask(late, count, view.valid)
        for base, crops in pairs(view.group, view.grids):
            n, m = int(view.counts[base]), int(view.counts[crops])
            total = int(count[base] + count[crops])
            first = min(max(int(total * self.alpha), 1), n)
            cells, (rows, columns) = crop_cells(view.grids[crops], view.grids[base][1:])
            cells = cells.to(keep.device)[view.source[crops, :m]]
            marked = int(n * (1 - self.alpha))
            shares = tile_shares(early[base, :n], max(rows * columns, 1), marked, total - first)
            score = late[crops, :m].masked_fill(cells < 0, -torch.inf)[None]
            chosen = torch.zeros_like(score, dtype=torch.bool)
            for tile, share in enumerate(shares.tolist()):
                chosen |= top_mask(score, share, (cells == tile)[None])
            if self.fill:
                chosen |= top_mask(score, total - first - int(chosen.sum()), ~chosen)
                first = total - int(chosen.sum())
            keep[base, :n] = top_mask(late[base, :n][None], first)
            keep[crops, :m] = chosen
        return select(keep)

    def flops(self, shape: Shape) -> float:
        return 4.0 * shape.n * shape.heads * shape.head_dim
