"""TransPrune: how much layers turn and scale a token, and what the text attends to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets
from autotc.scoring import heads, keep_top, mean_rows


@dataclass(frozen=True)
class TransPrune(Reducer):
    """Keep the tokens of largest transition, summed over layers, and attention of the text, each as a share.

    Signals: change of norm and direction in attention and MLP of every layer from the one before the first
    cut on; text rows recomputed with the next layer's norm, queries and keys. Selector: top-k of the sum.

    Source: TransPrune: Token Transition Pruning for Efficient Large Vision-Language Model, arXiv 2507.20630.
    Differs: only in ties, which go to the lowest index.
    Cost: norms and cosines of two modules a layer; at a cut key and query projections and the text's rows.
    """

    name: ClassVar[str] = "transprune"
    title: ClassVar[str] = "TransPrune"
    source: ClassVar[Source] = Source(
        "TransPrune: Token Transition Pruning for Efficient Large Vision-Language Model", "2507.20630"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("transition", "next_text_attention")
    query_aware: ClassVar[bool] = True
    stateful: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "transprune",
            lambda anatomy: tuple(
                PresetStage("decoder", keep, (layer, 32))
                for layer, keep in ((7, 0.875), (9, 0.625), (12, 0.125))
            ),
            positions="compact",
            note="504/360/72 of 576 tokens from layers 7/9/12 of 32",
        ),
    )

    def observe(self, view: TokenView) -> None:
        moved = view.signals["transition"].float().masked_fill(~view.valid, 0)
        if "transition" not in view.state:
            original = max(math.prod(grid) for grid in view.grids)
            view.state["transition"] = moved.new_zeros(len(moved), original)
        view.state["transition"].scatter_add_(1, view.source, moved)

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        self.observe(view)
        moved = view.state["transition"].gather(1, view.source)
        rows = heads(view.signals["next_text_attention"])
        words = rows.new_ones(rows.shape[:2]).bool() if view.text_valid is None else view.text_valid
        seen = mean_rows(rows, words)
        score = _share(moved, view.valid) + _share(seen, view.valid)
        return keep_top(score, budgets(view, budget), view.valid)

    def flops(self, shape: Shape) -> float:
        width, text = shape.heads * shape.head_dim, shape.text
        projected = 2 * shape.d * ((shape.n + text) * shape.key_width + text * width)
        rows = text * (shape.n + text) * shape.heads * (2 * shape.head_dim + 1)
        return 20.0 * (shape.n + text) * shape.d + projected + rows


def _share(x: Tensor, valid: Tensor) -> Tensor:
    """Return x (B, N) divided by its sum over valid tokens."""
    x = x.masked_fill(~valid, 0)
    return x / (x.sum(1, keepdim=True) + 1e-8)
