"""FEATHER: attention without rotary positions, and an even grid beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import heads, top_mask

# 30 % by attention, and of the rest the ninth that a grid of every third row and column holds
FIRST = 0.3 + 0.7 / 9


@dataclass(frozen=True)
class Feather(Reducer):
    """Keep an even grid and the tokens of highest attention, read without rotary positions.

    Without them late positions, which rotary attention prefers, have no advantage. Signal: last-query row
    over the image's tokens; selector: a strided grid and top-k beside it.

    Source: Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration,
        arXiv 2412.13180.
    Differs: the budget is that of the union, which attended tokens fill up (the authors fix the attended share,
        and the union is as large as it comes); where the grid does not fit the budget its stride grows until it
        takes at most half. Equal scores go to the lowest index.
    Cost: a key projection of the image's tokens and one query row.
    """

    name: ClassVar[str] = "feather"
    title: ClassVar[str] = "FEATHER"
    source: ClassVar[Source] = Source(
        "Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration",
        "2412.13180",
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("content_attention",)
    query_aware: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "feather",
            lambda anatomy: (
                PresetStage("decoder", FIRST, (8, 32), (("stride", 3),)),
                PresetStage("decoder", 0.09 * FIRST, (16, 32), (("stride", 0),)),
            ),
            note="30 % and a grid of stride 3 from layer 8 of 32, 9 % of those from layer 16",
        ),
    )

    stride: int = param(3, low=0, high=16, help="Every so many rows and columns make the grid; 0 for none.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        wanted = budgets(view, budget)
        grid = torch.stack([self._grid(view, row, k) for row, k in enumerate(wanted.tolist())])
        scores = heads(view.signals["content_attention"])
        return select(grid | top_mask(scores, wanted - grid.sum(1), view.valid & ~grid))

    def _grid(self, view: TokenView, row: int, wanted: int) -> Tensor:
        """Mark (N,) the tokens of one image that stand on the grid."""
        _, h, w = view.grids[row]
        source = view.source[row]
        stride, most = self.stride, wanted
        while 0 < stride < 2 * max(h, w):
            found = view.valid[row] & (source // w % h % stride == 0) & (source % w % stride == 0)
            if int(found.sum()) <= most:
                return found
            stride, most = stride + 1, wanted // 2
        return torch.zeros_like(view.valid[row])

    def flops(self, shape: Shape) -> float:
        projected = 2 * shape.d * (shape.n * shape.key_width + shape.heads * shape.head_dim)
        return projected + shape.n * shape.heads * (2 * shape.head_dim + 1)
