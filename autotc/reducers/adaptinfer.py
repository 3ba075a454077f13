"""AdaptInfer: text tokens that other text attends to have more say about the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets
from autotc.scoring import keep_top

LAYERS = (2, 11, 21)  # the outputs of layers 1, 10 and 20 of 32 are cut
COUNTS = {
    "adaptinfer": (290, 72, 18),
    "adaptinfer-64": (133, 27, 3),
    "adaptinfer-48": (80, 24, 2),
    "adaptinfer-32": (40, 12, 0),
}


def _preset(name: str, counts: tuple[int, ...]) -> Preset:
    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        return tuple(
            PresetStage("decoder", count / 576, (layer, 32))
            for layer, count in zip(LAYERS, counts, strict=True)
        )

    listed = "/".join(map(str, counts))
    return Preset(name, stages, positions="compact", note=f"{listed} of 576 tokens from layers 2/11/21 of 32")


@dataclass(frozen=True)
class AdaptInfer(Reducer):
    """Keep the tokens that text attends to most, each text token weighted by its ties to the other text.

    Signals: rows and columns of the text in the attention of the layer before the cut, head by head; selector:
    top-k of the sum over heads and text.

    Source: AdaptInfer: Adaptive Token Pruning for Vision-Language Model Inference with Dynamical Text
        Guidance, arXiv 2508.06084.
    Differs: the clusters of dropped tokens, which the authors' code inherits and leaves off, are left out;
        the search for the layers is left out, depths are the published ones; equal scores go to the lowest
        index.
    Cost: the text's attention rows.
    """

    name: ClassVar[str] = "adaptinfer"
    title: ClassVar[str] = "AdaptInfer"
    source: ClassVar[Source] = Source(
        "AdaptInfer: Adaptive Token Pruning for Vision-Language Model Inference with Dynamical Text Guidance",
        "2508.06084",
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("text_attention", "text_self_attention")
    query_aware: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = tuple(_preset(name, counts) for name, counts in COUNTS.items())

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        signals = view.signals
        scores = guided(signals["text_attention"], signals["text_self_attention"], view.text_valid)
        return keep_top(scores, budgets(view, budget), view.valid)

    def flops(self, shape: Shape) -> float:
        rows = shape.text * (shape.n + shape.text) * shape.heads
        return rows * (2 * shape.head_dim + 1) + 3 * rows


def guided(seen: Tensor, text: Tensor, text_valid: Tensor | None = None) -> Tensor:
    """Return what each token receives from the text, weighted by the text's own attention, (B, N) float32.

    Args:
        seen: (B, H, T, N) attention of text to image.
        text: (B, H, T, T) attention of text to text.
        text_valid: (B, T) bool.
    """
    seen, text = seen.float(), text.float()
    if text_valid is not None:
        seen = seen.masked_fill(~text_valid[:, None, :, None], 0)
        text = text.masked_fill(~(text_valid[:, None, :, None] & text_valid[:, None, None]), 0)
    # both directions of a tie count, a token's attention to itself once
    weight = text.sum(2) + text.sum(3) - text.diagonal(dim1=2, dim2=3)
    return torch.einsum("bht,bhtn->bn", weight, seen)
