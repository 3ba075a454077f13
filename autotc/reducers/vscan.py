"""VScan (vision stage): the best of each window early in the tower, the best of all late in it, the rest merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, nearest, top_in_groups, top_mask


def windows(view: TokenView, side: int) -> tuple[Tensor, Tensor]:
    """Return the window of each token, (B, N) int64, and how many windows each row has, (B,) int64.

    Windows are squares of `side` x `side` places of the original grid; those at its end may be smaller. Frames
    have windows of their own.
    """
    shape = torch.tensor(view.grids, device=view.x.device)
    h, w = shape[:, 1:2], shape[:, 2:3]
    rows, columns = (h + side - 1) // side, (w + side - 1) // side
    frame, place = view.source // (h * w), view.source % (h * w)
    window = (frame * rows + place // w // side) * columns + place % w // side
    return window, (shape[:, :1] * rows * columns)[:, 0]


@dataclass(frozen=True)
class VScan(Reducer):
    """Keep tokens that CLS attends to, by window in an early block and over the image in the last one.

    A token that is not kept goes into the kept one most like it (projected features), and all are averaged.

    Source: VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models, arXiv 2505.22654.
    Differs: only the stage before the language model; the authors prune again in a middle layer of it. What
        windows of equal shares can't have goes to the tokens chosen over the image, so the budget is met; the
        authors lose it (98 tokens for a budget of 100). Windows of other grids than 24 x 24 may be smaller at
        the end. The early block is the one at a quarter of the depth (their 6th of 24). A tower without a CLS
        row is read by received attention. Ties go to the lowest index.
    Cost: 2 N^2 D for the cosines.
    """

    name: ClassVar[str] = "vscan"
    title: ClassVar[str] = "VScan (vision stage)"
    source: ClassVar[Source] = Source(
        "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models", "2505.22654"
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("early_cls_attention", "cls_attention")
    instead: ClassVar[Mapping[str, str]] = {
        "early_cls_attention": "early_received_attention",
        "cls_attention": "received_attention",
    }
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "vscan",
            lambda anatomy: (PresetStage("projector", 192 / 576),),
            "compact",
            "the stage before the language model alone, 192 of 576 kept",
        ),
    )

    local: float = param(0.5, low=0.0, high=1.0, help="Share of the budget chosen window by window.")
    window: int = param(6, low=2, high=12, help="Side of a window in tokens.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        early, late = (
            heads(view.signals[name if name in view.signals else self.instead[name]]) for name in self.needs
        )
        count = budgets(view, budget)
        label, number = windows(view, self.window)
        each = count.new_tensor([int(k * self.local) for k in count.tolist()]) // number
        chosen = top_in_groups(early, label, each, view.valid)
        kept = chosen | top_mask(late, count - chosen.sum(1), view.valid & ~chosen)
        itself = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
        target = torch.where(kept, itself, nearest(cosine(view.x), kept))
        return merge(torch.where(view.valid, target, -1), normalise="count")

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n**2 * shape.d
