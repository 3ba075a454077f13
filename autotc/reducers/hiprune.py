"""HiPrune: object tokens of a middle block with their neighbours, then the most attended of a deep one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Source, TokenView, budgets, param
from autotc.scoring import heads, top_mask


def neighbours(chosen: Tensor, source: Tensor, valid: Tensor, grids: list[tuple[int, int, int]]) -> Tensor:
    """Return (B, N) bool, the tokens one place before, after, above or below a chosen one.

    Places are counted through the image row by row, so the end of a row is beside the start of the next.

    Args:
        chosen: (B, N) bool, valid tokens.
        source: (B, N) int64, original places.
        valid: (B, N) bool.
        grids: (t, h, w) of each row.
    """
    near = torch.zeros_like(chosen)
    for row, (t, h, w) in enumerate(grids):
        centre = source[row, chosen[row]]
        around = (centre[:, None] + centre.new_tensor([-1, 1, -w, w])).clamp(0, t * h * w - 1)
        near[row] = torch.isin(source[row], around)
    return near & valid


@dataclass(frozen=True)
class HiPrune(Reducer):
    """Keep anchors that the middle of the tower looks at, their neighbours, and what its end looks at.

    Source: HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models,
        arXiv 2508.00553.
    Differs: tokens that are chosen already are never chosen again; the authors take 1 off their score, which
        on Qwen, where scores are sums over queries, may not be enough, and fewer tokens come out (`again`).
        Where anchors and neighbours pass the budget, the neighbours of lowest score go. The object block is
        the one at 3/8 of the depth with a CLS row (the authors' 9th of 24), at half of it without (their 16th
        of 32). Ties go to the lowest index.
    Cost: sorts; the received attention of two blocks is the engine's.
    """

    name: ClassVar[str] = "hiprune"
    title: ClassVar[str] = "HiPrune"
    source: ClassVar[Source] = Source(
        "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models",
        "2508.00553",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("middle_received_attention", "received_attention")
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "hiprune",
            lambda anatomy: (PresetStage("projector", 192 / 576),),
            "compact",
            "a tenth of the tokens around anchors, 192 of 576 kept",
        ),
    )

    alpha: float = param(0.1, low=0.0, high=1.0, help="Share of the budget for anchors and their neighbours.")
    again: bool = param(
        False, search=False, help="Fill up as the authors' Qwen code: chosen tokens may be chosen again."
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        middle = heads(view.signals["middle_received_attention"])
        deep = heads(view.signals["received_attention"])
        count = budgets(view, budget)
        anchors = [min(round(k * self.alpha / 5), k) for k in count.tolist()]  # an anchor has four neighbours
        chosen = top_mask(middle, count.new_tensor(anchors), view.valid)
        near = neighbours(chosen, view.source, view.valid, view.grids) & ~chosen
        chosen = chosen | top_mask(deep, count - chosen.sum(1), near)
        if self.again:
            rest = top_mask(deep - chosen.float(), count - chosen.sum(1), view.valid)
        else:
            rest = top_mask(deep, count - chosen.sum(1), view.valid & ~chosen)
        return select(chosen | rest)
