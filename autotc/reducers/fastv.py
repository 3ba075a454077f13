"""FastV: one early cut by the attention of the last prompt token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import heads, keep_top


@dataclass(frozen=True)
class FastV(Reducer):
    """Keep the tokens that the last prompt token attends to most in the layer before the cut.

    Signal: last-query attention row; selector: top-k.

    Source: An Image is Worth 1/2 Tokens After Layer 2, arXiv 2403.06764.
    Differs: attention is taken once (the authors' cached variant runs the layer before the cut twice, so
        that it caches its keys twice); equal scores go to the lowest index.
    Cost: one attention row over the visual keys.
    """

    name: ClassVar[str] = "fastv"
    title: ClassVar[str] = "FastV"
    source: ClassVar[Source] = Source(
        "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large "
        "Vision-Language Models",
        "2403.06764",
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("last_attention",)
    query_aware: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "fastv",
            lambda anatomy: (PresetStage("decoder", 0.5, (2, anatomy.decoder.layers)),),
            note="half of the tokens leave before layer 2 (K = 2, R = 50 %)",
        ),
    )

    heads: str = param("mean", choices=("mean", "max"), help="How the heads' attention is reduced.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        scores = heads(view.signals["last_attention"], self.heads)
        return keep_top(scores, budgets(view, budget), view.valid)

    def flops(self, shape: Shape) -> float:
        return shape.n * shape.heads * (2 * shape.head_dim + 1)
