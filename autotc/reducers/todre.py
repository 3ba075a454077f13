"""ToDRE: the most attended token, then the tokens least like all that are chosen; none in the last layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets
from autotc.scoring import heads, spread, top_mask


def _published(keep: float) -> Preset:
    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        return (
            PresetStage("projector", keep),
            PresetStage("decoder", 0.0, (28, 32), reducer="withdraw"),
        )

    name = "todre" if keep == 0.25 else f"todre-{100 * keep:.0f}"
    return Preset(
        name, stages, note=f"{keep:.0%} of the tokens, and none in the last eighth of the language model"
    )


@dataclass(frozen=True)
class ToDre(Reducer):
    """Begin with the token of highest CLS attention, then add the token least similar to all chosen ones.

    Signals: CLS attention for the first pick, cosines of projected tokens; selector: greedy, least sum of
    cosines.

    Source: ToDRE: Effective Visual Token Pruning via Token Diversity and Task Relevance, arXiv 2505.18757.
    Differs: written from the paper, there is no code of the authors. The second stage is a withdrawal in the
        presets: they let the tokens leave where attention between text and image falls below a threshold, a
        preset always does so after 7/8 of the layers. A tower without a CLS row begins with the token that
        receives most attention (theirs with a random one). Each view of an image has a first pick of its own
        (theirs one in the thumbnail). Tokens stay in the image's order. Ties go to the lowest index.
    Cost: the cosines of all tokens, 2 N^2 D, and K N sums.
    """

    name: ClassVar[str] = "todre"
    title: ClassVar[str] = "ToDRE"
    source: ClassVar[Source] = Source(
        "ToDRE: Effective Visual Token Pruning via Token Diversity and Task Relevance", "2505.18757"
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("cls_attention",)
    instead: ClassVar[Mapping[str, str]] = {"cls_attention": "received_attention"}
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (_published(0.25), _published(0.1))

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        name = "cls_attention" if "cls_attention" in view.signals else "received_attention"
        count = budgets(view, budget)
        pivot = top_mask(heads(view.signals[name]), count.clamp_max(1), view.valid)
        return select(spread(view.x, pivot, count, view.valid, by="sum"))

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n**2 * shape.d + shape.k * shape.n
