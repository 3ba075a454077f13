"""FasterVLM: keep the tokens that the vision tower's CLS row attends to most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets
from autotc.scoring import heads, keep_top


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return (PresetStage("projector", keep=0.1),)


@dataclass(frozen=True)
class FasterVLM(Reducer):
    """Keep the tokens of highest CLS attention (mean over heads) in the block that makes the features.

    Source: [CLS] Attention is All You Need for Training-Free Visual Token Pruning, arXiv 2412.01818v1.
    Differs: a tower without a CLS row (not supported by the authors) is read by the attention that each token
        receives, mean over heads and queries. Ties go to the lowest index.
    Cost: one attention row, 2 N D, and a sort; with received attention 2 N^2 D.
    """

    name: ClassVar[str] = "fastervlm"
    title: ClassVar[str] = "FasterVLM"
    source: ClassVar[Source] = Source(
        "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster",
        "2412.01818",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("cls_attention",)
    instead: ClassVar[Mapping[str, str]] = {"cls_attention": "received_attention"}
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("fastervlm", _published, "compact", "top CLS attention, 10 % kept"),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        name = "cls_attention" if "cls_attention" in view.signals else "received_attention"
        return keep_top(heads(view.signals[name]), budgets(view, budget), view.valid)

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n * shape.heads * shape.head_dim + shape.n * shape.heads
