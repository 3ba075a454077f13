"""PyramidDrop: cuts at several depths, each by the attention the next layer would pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import heads, keep_top


@dataclass(frozen=True)
class PyramidDrop(Reducer):
    """Keep the tokens that the last prompt token attends to most in the first layer that sees fewer of them.

    Signal: last-query attention row, recomputed with the next layer's norm, queries and keys; selector:
    top-k.

    Source: PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
        Reduction, arXiv 2410.17247.
    Differs: keys of grouped-query models are shared by their group's queries (the authors' code assumes as
        many key heads as query heads); the training mode, which averages over several queries, is left out;
        equal scores go to the lowest index.
    Cost: one more key projection of all tokens and one query row.
    """

    name: ClassVar[str] = "pyramiddrop"
    title: ClassVar[str] = "PyramidDrop"
    source: ClassVar[Source] = Source(
        "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
        "2410.17247",
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("next_attention",)
    query_aware: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "pyramiddrop",
            lambda anatomy: tuple(
                PresetStage("decoder", keep, (layer, 32))
                for layer, keep in ((8, 0.5), (16, 0.25), (24, 0.125))
            ),
            positions="compact",
            note="half of the tokens leave after each quarter of the layers",
        ),
    )

    heads: str = param("mean", choices=("mean", "max"), help="How the heads' attention is reduced.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        scores = heads(view.signals["next_attention"], self.heads)
        return keep_top(scores, budgets(view, budget), view.valid)

    def flops(self, shape: Shape) -> float:
        width = shape.heads * shape.head_dim
        projected = 2 * shape.d * ((shape.n + shape.text) * shape.key_width + width)
        return projected + shape.n * shape.heads * (2 * shape.head_dim + 1)
