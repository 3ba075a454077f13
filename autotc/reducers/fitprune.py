"""FitPrune: a few tokens leave at nearly every layer, by what text and image attend to."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.policy import map_depth
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets
from autotc.scoring import heads, keep_top

# tokens of 576 deleted in each layer of LLaVA-1.5-7B for 60 % fewer FLOPs
RECIPE_60 = (
    *(14, 33, 89, 36, 36, 20, 55, 21, 18, 4, 7, 5, 2, 5, 7, 4),
    *(26, 5, 11, 24, 4, 18, 2, 1, 0, 0, 1, 0, 1, 0, 0, 0),
)


def _recipe(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    """One stage behind each layer that deletes; where depths fall together the later count holds."""
    layers, stages = anatomy.decoder.layers, {}
    for layer, (away, gone) in enumerate(zip(RECIPE_60, accumulate(RECIPE_60), strict=True)):
        if away:
            stages[map_depth(layer + 1, 32, layers)] = (576 - gone) / 576
    return tuple(PresetStage("decoder", keep, (layer, layers)) for layer, keep in stages.items())


@dataclass(frozen=True)
class FitPrune(Reducer):
    """Keep the tokens of largest product of the attention from the text and from the image itself.

    Signals: attention of the layer before the cut, largest over heads, summed over text queries and averaged
    over the image's queries; selector: top-k of the product.

    Source: Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models,
        arXiv 2409.10197.
    Differs: the cut comes behind the layer whose attention decides (the authors delete between its attention
        and its MLP, so that its MLP is spared the tokens); the search for the recipe is left out, one published
        recipe is a preset, and `spare` is the search's rule for one layer. Equal products go to the lowest
        index.
    Cost: the attention map of the image's and the text's queries.
    """

    name: ClassVar[str] = "fitprune"
    title: ClassVar[str] = "FitPrune"
    source: ClassVar[Source] = Source(
        "Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models",
        "2409.10197",
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("text_attention", "peak_attention")
    query_aware: ClassVar[bool] = True
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "fitprune", _recipe, note="the published recipe for 60 % fewer FLOPs, a stage a deleting layer"
        ),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        cross = from_text(view.signals["text_attention"], view.text_valid)
        scores = cross * view.signals["peak_attention"].float()
        return keep_top(scores, budgets(view, budget), view.valid)

    def flops(self, shape: Shape) -> float:
        queries = shape.n + shape.text
        return queries * (shape.n + shape.text) * shape.heads * (2 * shape.head_dim + 1)


def from_text(attention: Tensor, text_valid: Tensor | None = None) -> Tensor:
    """Return what each token receives from text queries, largest over heads, summed: (B, N) float32.

    Args:
        attention: (B, H, T, N).
        text_valid: (B, T) bool.
    """
    peak = heads(attention, "max")
    return (peak if text_valid is None else peak.masked_fill(~text_valid[..., None], 0)).sum(1)


def spare(scores: Tensor, alpha: float, mass: float) -> Tensor:
    """Return the tokens that a layer can spare: the recipe search's rule for one statistic and one sample.

    The smallest scores leave as long as the others hold 1 - alpha of the mass; the authors then take one
    token less. A layer deletes what both its statistics spare.

    Args:
        scores: (N,).
        alpha: share of the mass that may be lost, in [0, 1].
        mass: of all tokens, before any layer deleted one.

    Returns:
        (K,) int64, ascending by score. Where even all tokens may leave, all do.
    """
    order = torch.argsort(scores, stable=True)
    left = scores.double().sum() - scores.double()[order].cumsum(0)
    short = (left < (1 - alpha) * mass).nonzero()
    return order[: int(short[0])] if len(short) else order
