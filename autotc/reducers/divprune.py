"""DivPrune: keep the tokens that are most different from one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets
from autotc.scoring import farthest, order_mask


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return (PresetStage("projector", keep=0.098),)


@dataclass(frozen=True)
class DivPrune(Reducer):
    """Keep the tokens whose smallest cosine distance to one another is greatest, chosen greedily (max-min).

    Source: DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models, arXiv 2503.02175.
    Differs: chosen tokens are masked; the authors rely on their distance being 0, so that a duplicate could
        be picked twice. Each image of a prompt is pruned by itself. Ties go to the lowest index.
    Cost: 2 N^2 D + K N, once a prefill.
    """

    name: ClassVar[str] = "divprune"
    title: ClassVar[str] = "DivPrune"
    source: ClassVar[Source] = Source(
        "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", "2503.02175"
    )
    sites: ClassVar[tuple[str, ...]] = ("projector", "decoder")
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("divprune", _published, "compact", "max-min selection of the projected tokens, 9.8 % kept"),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        count = budgets(view, budget)
        order = farthest(view.x, count, view.valid)
        return select(order_mask(order, count, view.x.shape[1]))

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n**2 * shape.d + shape.k * shape.n
