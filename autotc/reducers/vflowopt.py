"""VFlowOpt: the tower's own importance of each token, carried along; what leaves first is averaged on a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cells, heads, keep_top, ranking, top_in_groups, top_mask


def _published(percent: int, threshold: float, cell: float, *ratios: float) -> Preset:
    """The settings that the authors' search found; each ratio is of the tokens left before it."""

    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        first, second, third = ratios
        knobs = (("threshold", threshold), ("cell", cell))
        later = (*knobs, ("recycle", False))
        return (
            PresetStage("projector", first, params=knobs),
            PresetStage("decoder", first * second, (9, 28), later),
            PresetStage("decoder", first * second * third, (18, 28), later),
        )

    name = "vflowopt" if percent == 25 else f"vflowopt-{percent}"
    return Preset(name, stages, note=f"found settings: {percent} % of the tokens, mean over the layers")


def importance(attention: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Return what tokens (B, N) receive from the queries that receive most themselves.

    Args:
        attention: (B, N, N) from rows to columns.
        valid: (B, N) bool.
        threshold: a query counts if it receives more than so many times the mean; the first one always does.
    """
    attention = attention.float().masked_fill(~(valid[:, :, None] & valid[:, None]), 0)
    received = attention.sum(1)
    mean = received.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp_min(1)
    counts = (received > threshold * mean) & valid | top_mask(received, 1, valid)
    return attention.masked_fill(~counts[..., None], 0).sum(1) / counts.sum(1, keepdim=True).clamp_min(1)


def recycled(score: Tensor, cell: Tensor, away: Tensor, valid: Tensor) -> Tensor:
    """Return where each token goes, (B, N): the least important ones into the best of them in their cell.

    Args:
        score: (B, N) importance.
        cell: (B, N) int64.
        away: (B,) int64, tokens that are not kept for themselves.
        valid: (B, N) bool.
    """
    gone = valid & ~top_mask(score, valid.sum(1) - away, valid)
    best = top_in_groups(score, cell, 1, gone)
    itself = torch.arange(score.shape[1], device=score.device).expand_as(cell)
    room = int(cell.max()) + 1 if cell.numel() else 0
    head = torch.full((len(cell), room), -1, device=cell.device)
    head.scatter_reduce_(1, cell, torch.where(best, itself, -1), reduce="amax")
    return torch.where(gone, head.gather(1, cell), torch.where(valid, itself, -1))


@dataclass(frozen=True)
class VFlowOpt(Reducer):
    """Keep the tokens that the tower's most attended tokens attend to; average the others by cells of the grid.

    Signal: map of the tower's last block, the rows of its most attended tokens; selector: top-k; merger: mean
    of a cell, weighted by importance, at its most important token. Later stages (`recycle` off) only drop.

    Source: VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization,
        arXiv 2508.05211.
    Differs: cells and kept tokens together meet the budget (the authors' count is only near the asked one);
        where there are more cells than that, those of the most important tokens stay. Each view of an image
        has its own budget, and newline embeddings, which nothing attends to, leave first (theirs rank all
        views together and keep newlines). The entropy of the pixels is left out: its weight is 0 in all
        settings that were found. With no token above the threshold the most attended one is asked alone,
        where theirs ends without a number. A tower whose map isn't at hand is read by the attention that
        tokens receive from all. The search for settings is left to `autotc search`. Ties go to the lowest
        index.
    Cost: the tower's map once, and its column sums.
    """

    name: ClassVar[str] = "vflowopt"
    title: ClassVar[str] = "VFlowOpt"
    source: ClassVar[Source] = Source(
        "VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization",
        "2508.05211",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector", "decoder")
    needs: ClassVar[tuple[str, ...]] = ("vision_attention",)
    instead: ClassVar[Mapping[str, str]] = {"vision_attention": "received_attention"}
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        _published(25, 34.76, 15.58, 0.2651, 0.983, 0.877),
        _published(50, 28.68, 11.76, 0.7233, 0.7487, 0.487),
        _published(10, 39.26, 17.39, 0.1166, 1.0, 0.601),
    )

    threshold: float = param(
        34.76, low=0.0, high=50.0, help="Times the mean attention of tokens that are asked."
    )
    cell: float = param(15.58, low=3.0, high=24.0, help="Side of a cell of the grid in tokens.")
    recycle: bool = param(True, help="Whether dropped tokens are averaged by cells.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        score, count = self._carried(view), budgets(view, budget)
        if not self.recycle:
            return keep_top(score, count, view.valid)
        cell = cells(view.source, view.grids, self.cell).masked_fill(~view.valid, 0)
        away = _away(score, cell, count, view.valid)
        target = recycled(score, cell, away, view.valid)
        itself = torch.arange(target.shape[1], device=target.device)
        stays = top_mask(score, count, target == itself)  # all of them, unless the cells alone are too many
        target = torch.where(stays.gather(1, target.clamp_min(0)), target, -1)
        kept = top_mask(score, view.counts - away, view.valid)
        weight = score.nan_to_num(0.0).clamp_min(torch.finfo(torch.float32).tiny)
        return merge(target, torch.where(kept, 1.0, weight), normalise="count")

    def _carried(self, view: TokenView) -> Tensor:
        """Return the importance (B, N), as the first stage of the prefill saw it."""
        place = view.source.masked_fill(~view.valid, 0)
        if "importance" not in view.state:
            if "vision_attention" in view.signals:
                score = importance(view.signals["vision_attention"], view.valid, self.threshold)
            else:
                score = heads(view.signals["received_attention"])
            room = max(t * h * w for t, h, w in view.grids)
            view.state["importance"] = score.new_zeros(len(score), room + 1).scatter_(
                1, torch.where(view.valid, place, room), score
            )
        known: Tensor = view.state["importance"]
        return known.gather(1, place)

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n**2 if self.recycle else 0.0


def _away(score: Tensor, cell: Tensor, count: Tensor, valid: Tensor) -> Tensor:
    """Return (B,) the fewest tokens to send to their cells so that they and the kept ones meet the budget."""
    order = ranking(score, valid)
    n = valid.sum(1, keepdim=True)
    room = torch.arange(order.shape[1], device=order.device).expand_as(order)
    place = n - 1 - room  # place 0 is the least important token
    tail = order.gather(1, place.clamp_min(0))
    at = cell.gather(1, tail).masked_fill(place < 0, int(cell.max()) + 1 if cell.numel() else 0)
    first = torch.full((len(cell), int(at.max()) + 1), order.shape[1], device=cell.device)
    first.scatter_reduce_(1, at, room, reduce="amin")
    new = first.gather(1, at) == room
    left = n - 1 - room + new.cumsum(1)  # tokens that come out when the first 1, 2, ... go to their cells
    more = (left > count[:, None]) & (place >= 0)
    return torch.where(n[:, 0] > count, (more.sum(1) + 1).clamp_max(n[:, 0]), 0)
