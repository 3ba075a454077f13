"""DyMU: merge inside the tower whatever is alike enough, so that plain images keep fewer tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.kernels import bipartite_match
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, fold


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return tuple(PresetStage("vision", 1 - 2 / 3 * j / 3, (j, 4)) for j in range(1, 4))


@dataclass(frozen=True)
class DyMU(Reducer):
    """Merge even tokens whose best odd partner is alike beyond a threshold, and more where the budget asks.

    Source: DyMU: Dynamic Merging and Virtual Unmerging for Efficient VLMs, arXiv 2504.17040.
    Differs: the threshold is a parameter; the authors calibrate one for every block on images. The budget is
        a cap: where the threshold leaves more tokens, the best matches below it go too. The language model
        sees the merged tokens (no virtual unmerging). Output stays in the image's order. Block 0 never
        merges. Ties go to the lowest index.
    Cost: 2 (N / 2)^2 hd a matching.
    """

    name: ClassVar[str] = "dymu"
    title: ClassVar[str] = "DyMU"
    source: ClassVar[Source] = Source(
        "DyMU: Dynamic Merging and Virtual Unmerging for Efficient VLMs", "2504.17040"
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_keys",)
    adaptive: ClassVar[bool] = True
    size_bias: ClassVar[bool] = True
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "dymu", _published, note="thresholded merges at a quarter, half and three quarters of the tower"
        ),
    )

    threshold: float = param(0.9, low=0.0, high=1.0, help="Cosine beyond which tokens merge.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        keys, counts = view.signals["block_keys"], view.counts
        even = view.prefix % 2
        best = cosine(keys[:, even::2], keys[:, 1 - even :: 2])
        best = best.masked_fill(~view.valid[:, None, 1 - even :: 2], -torch.inf)
        alike = torch.zeros_like(counts)
        if best.shape[2]:
            over = (best.amax(-1) > self.threshold) & view.valid[:, even::2]
            alike = torch.minimum(over.sum(1), counts // 2)

        def match(metric: Tensor, valid: Tensor, away: Tensor) -> Tensor:
            return bipartite_match(metric, away, valid, view.prefix)

        count = torch.minimum(budgets(view, budget), counts - alike)
        return merge(fold(keys, view.size, count, view.valid, match))

    def flops(self, shape: Shape) -> float:
        total, n = 2.0 * (shape.n // 2) * (shape.n - shape.n // 2) * shape.head_dim, shape.n
        while n > max(shape.k, 1):
            total += 2.0 * (n // 2) * (n - n // 2) * shape.head_dim
            n = max(shape.k, n - n // 2, 1)
        return total
