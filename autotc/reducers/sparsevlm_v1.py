"""SparseVLM 1.0: how many tokens a layer keeps follows from the rank of the raters' attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment
from autotc.reducer import Budget, Reducer, Shape, Source, TokenView, budgets, param
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


@dataclass(frozen=True)
class SparseVLMv1(Reducer):
    """Keep rank x scale + bias tokens that rater words attend to, and recycle some of the others (v1.0).

    Signals: embeddings (for raters), text rows of the attention in the layer before the cut; selector: top-k
    with a count of its own; merger: density-peak means.

    Source: SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference,
        arXiv 2410.04417 (first version of the code).
    Differs: the budget caps what the rank asks for, recycled tokens included, and they stand at their
        cluster's centre (the authors' stand behind all kept tokens); at least one token is kept; equal
        densities rank by lowest index (theirs by random noise); where no text token is above the mean all of
        them rate.
    Cost: as sparsevlm, and the singular values of the raters' attention.
    """

    name: ClassVar[str] = "sparsevlm_v1"
    title: ClassVar[str] = "SparseVLM 1.0"
    source: ClassVar[Source] = Source(
        "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", "2410.04417"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("text_attention", "input_embeds", "text_embeds")
    query_aware: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True

    scale: float = param(13.5, low=0.5, high=50.0, help="Tokens kept for each rank of the raters' attention.")
    bias: float = param(0.0, low=0.0, high=64.0, help="Tokens kept beside those.")
    recycle: float = param(0.3, low=0.0, high=0.9, help="Share of the dropped tokens that is recycled.")
    divide: int = param(10, low=2, high=50, help="Recycled tokens a cluster.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        wanted, text = budgets(view, budget).tolist(), view.text_valid
        visual = view.signals["input_embeds"]
        chosen, _ = raters(visual, view.signals["text_embeds"], original_valid(view.grids, visual), text)
        rows = heads(view.signals["text_attention"])
        counts = []
        for row, n in enumerate(view.counts.tolist()):
            cap = recycling_split(n, wanted[row], self.recycle, self.divide)
            ranked = rank_count(rows[row, chosen[row], :n], self.scale, self.bias)
            kept = min(max(ranked, 1), cap)
            room = kept < wanted[row]
            counts.append((kept, *(recycled(n - kept, self.recycle, self.divide) if room else (0, 0))))
        kept, tokens, clusters = torch.tensor(counts).T
        scores = mean_rows(rows, chosen)
        keep = top_mask(scores, kept, view.valid)
        return recycle(view.x, keep, scores, tokens, clusters, view.valid)

    def flops(self, shape: Shape) -> float:
        rated = 2 * shape.n * shape.text * (shape.d + shape.heads * shape.head_dim)
        points, clusters = recycled(shape.n - shape.k, self.recycle, self.divide)
        ranks = 4 * shape.n * shape.text**2
        return rated + ranks + 3 * points * (points + clusters) * shape.d


def rank_count(rows: Tensor, scale: float, bias: float) -> int:
    """Return how many tokens the raters' attention (R, n) asks for; all of them where it has full rank n."""
    n, rank = rows.shape[1], int(torch.linalg.matrix_rank(rows.float()))
    return n if rank == n else min(int(rank * scale + bias), n - 1)
