"""SparseVLM: the text that is about the image rates the tokens, and some of the dropped ones are recycled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import (
    heads,
    mean_rows,
    original_valid,
    raters,
    recycle,
    recycled,
    recycling_split,
    top_mask,
)

LAYERS = (3, 7, 16)  # the outputs of layers 2, 6 and 15 of 32 are cut
COUNTS = {"sparsevlm": (300, 200, 110), "sparsevlm-128": (303, 110, 36), "sparsevlm-64": (66, 30, 17)}


def _preset(name: str, counts: tuple[int, ...]) -> Preset:
    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        n, out = 576, []
        for layer, kept in zip(LAYERS, counts, strict=True):
            n = kept + recycled(n - kept)[1]
            out.append(PresetStage("decoder", n / 576, (layer, 32)))
        return tuple(out)

    listed = "/".join(map(str, counts))
    note = f"{listed} of 576 tokens and their recycled clusters from layers 3/7/16 of 32 (v1.5)"
    return Preset(name, stages, positions="compact", note=note)


@dataclass(frozen=True)
class SparseVLM(Reducer):
    """Keep the tokens that rater words attend to most; cluster the best of the others into a few (v1.5).

    Raters are the text tokens that share more of the image than the average one. Signals: embeddings (for
    raters), text rows of the attention in the layer before the cut; selector: top-k; merger: density-peak
    means.

    Source: SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference,
        arXiv 2410.04417.
    Differs: recycled tokens count into the budget (the authors add them to it) and stand at their cluster's
        centre (theirs stand behind all kept tokens); equal densities rank by lowest index (theirs by random
        noise); where no text token is above the mean all of them rate; a budget too small for a kept token
        and a cluster goes to kept tokens alone.
    Cost: rater similarities, the raters' attention rows, distances among the recycled 30 % of the dropped.
    """

    name: ClassVar[str] = "sparsevlm"
    title: ClassVar[str] = "SparseVLM"
    source: ClassVar[Source] = Source(
        "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", "2410.04417"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("text_attention", "input_embeds", "text_embeds")
    query_aware: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = tuple(_preset(name, counts) for name, counts in COUNTS.items())

    recycle: float = param(0.3, low=0.0, high=0.9, help="Share of the dropped tokens that is recycled.")
    divide: int = param(10, low=2, high=50, help="Recycled tokens a cluster.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        signals, wanted = view.signals, budgets(view, budget)
        visual = signals["input_embeds"]
        within = original_valid(view.grids, visual)
        chosen, _ = raters(visual, signals["text_embeds"], within, view.text_valid)
        scores = mean_rows(heads(signals["text_attention"]), chosen)
        pairs = list(zip(view.counts.tolist(), wanted.tolist(), strict=True))
        kept = torch.tensor([recycling_split(n, k, self.recycle, self.divide) for n, k in pairs])
        keep = top_mask(scores, kept, view.valid)
        extra = [
            recycled(n - k, self.recycle, self.divide) if k < budget else (0, 0)
            for (n, budget), k in zip(pairs, kept.tolist(), strict=True)
        ]
        tokens, clusters = torch.tensor(extra).T
        return recycle(view.x, keep, scores, tokens, clusters, view.valid)

    def flops(self, shape: Shape) -> float:
        rated = 2 * shape.n * shape.text * (shape.d + shape.heads * shape.head_dim)
        points, clusters = recycled(shape.n - shape.k, self.recycle, self.divide)
        return rated + 3 * points * (points + clusters) * shape.d
