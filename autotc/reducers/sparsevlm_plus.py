"""SparseVLM+ (2.0): the same raters, read without RoPE's trend and by the heads that look at the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import keep_top, mean_rows, original_valid, ranking, raters

LAYERS = (3, 7, 16)  # the outputs of layers 2, 6 and 15 of 32 are cut
COUNTS = {
    "sparsevlm_plus": (300, 200, 118),
    "sparsevlm_plus-128": (238, 108, 60),
    "sparsevlm_plus-64": (66, 34, 20),
}


def _preset(name: str, counts: tuple[int, ...]) -> Preset:
    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        places = zip(LAYERS, counts, strict=True)
        return tuple(PresetStage("decoder", kept / 576, (layer, 32)) for layer, kept in places)

    listed = "/".join(map(str, counts))
    return Preset(name, stages, note=f"{listed} of 576 tokens from layers 3/7/16 of 32 (v2.0)")


@dataclass(frozen=True)
class SparseVLMPlus(Reducer):
    """Keep the tokens that rater words attend to most, in some heads and without RoPE's trend.

    Signals: embeddings (for raters), text rows of the attention in the layer before the cut; selector: top-k.

    Source: SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference,
        arXiv 2410.04417 (version 2.0 of the code).
    Differs: the trend is that of one position a token with the text right behind the image, also where a
        model gives tokens several (Qwen); equal scores go to the lowest index; where no text token is above
        the mean all of them rate.
    Cost: rater similarities and the raters' attention rows.
    """

    name: ClassVar[str] = "sparsevlm_plus"
    title: ClassVar[str] = "SparseVLM+"
    source: ClassVar[Source] = Source(
        "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", "2410.04417"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("text_attention", "input_embeds", "text_embeds", "keys")
    query_aware: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = tuple(_preset(name, counts) for name, counts in COUNTS.items())

    keep_heads: int = param(14, low=1, high=64, help="Heads that are read (published: 14 of 32).")
    rope_base: float = param(10000.0, low=2.0, search=False, help="RoPE's base, whose trend is divided out.")
    debias: bool = param(True, help="Divide out RoPE's trend.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        visual, attention = view.signals["input_embeds"], view.signals["text_attention"].float()
        within, text = original_valid(view.grids, visual), view.text_valid
        chosen, _ = raters(visual, view.signals["text_embeds"], within, text)
        if self.debias:
            behind = torch.tensor([math.prod(grid) for grid in view.grids], device=attention.device)
            places = behind[:, None] + torch.arange(attention.shape[2], device=attention.device)
            width = view.signals["keys"].shape[-1]
            attention = attention / rope_trend(places, view.source, width, self.rope_base)[:, None]
        # one mean over raters a head, padding left out
        rows = torch.stack([mean_rows(head, chosen) for head in attention.unbind(1)], 1)
        rows = rows.masked_fill(~view.valid[:, None], 0)
        best = looking_heads(rows, self.keep_heads)
        scores = rows.gather(1, best[..., None].expand(-1, -1, rows.shape[-1])).mean(1)
        return keep_top(scores, budgets(view, budget), view.valid)

    def flops(self, shape: Shape) -> float:
        trend = shape.text * shape.n * (shape.head_dim + shape.heads)
        return 2 * shape.n * shape.text * (shape.d + shape.heads * shape.head_dim) + trend


def looking_heads(rows: Tensor, count: int) -> Tensor:
    """Return the heads (B, count) with the largest total of rows (B, H, N), best first."""
    return ranking(rows.sum(-1))[:, :count]


def rope_trend(queries: Tensor, keys: Tensor, width: int, base: float) -> Tensor:
    """Return the logits of all-ones queries and keys after RoPE.

    Args:
        queries: (B, T) positions.
        keys: (B, N) positions.
        width: of a head.
        base: of the rotation.

    Returns:
        (B, T, N) float32; only the distance counts, and it may be near zero or negative.
    """
    distance = (queries[:, :, None] - keys[:, None, :]).float()
    total = torch.zeros_like(distance)
    for pair in range(0, width, 2):
        total += (distance * base ** (-pair / width)).cos()
    return total.mul(2 / width**0.5)
