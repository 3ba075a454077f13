"""VisPruner: half of the tokens by CLS attention, half by thinning out duplicates among the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, ranking


def thin(similarity: Tensor, order: list[int], count: int, step: int) -> list[int]:
    """Remove the most duplicated tokens until `count` are left.

    The list is split by parity of place; the even tokens most like an odd one leave, at most `step` a round,
    and the surviving even tokens (by falling similarity) go before the odd ones.

    Args:
        similarity: (N, N).
        order: tokens to begin with, in an order that matters.
        count: tokens to leave.
        step: tokens removed a round.
    """
    while len(order) > count:
        even, odd = order[0::2], order[1::2]
        if not odd:
            return []
        best = similarity[even][:, odd].amax(1)
        worst = torch.argsort(best, descending=True, stable=True).tolist()
        gone = min(step, len(order) - count, len(even))
        order = [even[i] for i in worst[gone:]] + odd
    return order


@dataclass(frozen=True)
class VisPruner(Reducer):
    """Keep the tokens of highest CLS attention, then the most different of the rest.

    Source: Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs, arXiv
        2412.01818 (later versions).
    Differs: an odd number of remaining tokens, which the authors' code can't split, leaves the even half one
        longer. A tower without a CLS row is read by received attention of the block that makes the features
        (the authors take the last block). Ties go to the lowest index, or place.
    Cost: the cosines of the features once, 2 N^2 Dv, and (N - K) / step passes over a quarter of them.
    """

    name: ClassVar[str] = "vispruner"
    title: ClassVar[str] = "VisPruner"
    source: ClassVar[Source] = Source(
        "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
        "2412.01818",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("cls_attention", "features")
    instead: ClassVar[Mapping[str, str]] = {"cls_attention": "received_attention"}
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "vispruner",
            lambda anatomy: (PresetStage("projector", 64 / 576),),
            "compact",
            "32 important and 32 diverse tokens of 576",
        ),
    )

    important: float = param(0.5, low=0.0, high=1.0, help="Share of the budget chosen by attention.")
    step: int = param(8, low=1, high=64, search=False, help="Duplicates removed a round.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        name = "cls_attention" if "cls_attention" in view.signals else "received_attention"
        order = ranking(heads(view.signals[name]), view.valid)
        keep = torch.zeros_like(view.valid)
        for row, count in enumerate(budgets(view, budget).tolist()):
            n = int(view.counts[row])
            top = int(count * self.important)
            alike = cosine(view.signals["features"][row : row + 1, :n])[0]
            rest = thin(alike, order[row, top:n].tolist(), count - top, self.step)
            keep[row, [*order[row, :top].tolist(), *rest]] = True
        return select(keep)

    def flops(self, shape: Shape) -> float:
        width = shape.heads * shape.head_dim
        rounds = max(shape.n - shape.k, 0) / self.step
        return 2.0 * shape.n**2 * width + rounds * shape.n**2 / 4
