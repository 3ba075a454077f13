"""SCOPE: greedy coverage of all tokens, weighted by CLS attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from autotc.assignment import Assignment, select
from autotc.kernels import greedy_cover
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, order_mask


@dataclass(frozen=True)
class Scope(Reducer):
    """Add, again and again, the token whose gain in coverage times attention is greatest.

    A set covers a token as well as its most similar member does (cosine of encoder features).

    Source: SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodel LLMs, arXiv 2510.24214.
    Differs: a tower without a CLS row, which the authors don't cover, is read by received attention. Ties go
        to the lowest index.
    Cost: 2 N^2 Dv for the cosines and 2 K N^2 for the gains.
    """

    name: ClassVar[str] = "scope"
    title: ClassVar[str] = "SCOPE"
    source: ClassVar[Source] = Source(
        "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodel LLMs", "2510.24214"
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("cls_attention", "features")
    instead: ClassVar[Mapping[str, str]] = {"cls_attention": "received_attention"}
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "scope", lambda anatomy: (PresetStage("projector", 64 / 576),), "compact", "64 of 576 tokens kept"
        ),
    )

    alpha: float = param(1.0, low=0.0, high=4.0, help="Power of the attention.")
    combined: str = param("multi", choices=("multi", "add"), help="Multiply gain and attention, or add them.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        name = "cls_attention" if "cls_attention" in view.signals else "received_attention"
        salience = heads(view.signals[name], "sum").clamp_min(0).pow(self.alpha)
        alike = cosine(view.signals["features"]).masked_fill(~view.valid[..., None], 0)
        count = budgets(view, budget)
        weight, extra = (salience, None) if self.combined == "multi" else (None, salience)
        order = greedy_cover(alike, count, view.valid, weight, extra)
        return select(order_mask(order, count, view.x.shape[1]))

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n**2 * (shape.heads * shape.head_dim + shape.k)
