"""ATC: inside the tower, cluster the tokens bottom up and average each cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine

PATCHES = 576


def clusters(distance: Tensor, count: int, method: str = "average") -> Tensor:
    """Return (N,) int64, for each token the lowest index of its cluster.

    Args:
        distance: (N, N), symmetric; NaN counts as farther than all others.
        count: clusters to leave, at least 1.
        method: how far apart two clusters are: the "average", largest ("complete") or least ("single")
            distance between their members.
    """
    n = len(distance)
    table = distance.double().cpu().numpy()
    far = 1 + np.nanmax(table, initial=0)
    table = np.nan_to_num(np.triu(table, 1), nan=far)
    owner = np.arange(2 * n)
    if count < n:
        joins = linkage(squareform(table + table.T), method)[: n - count, :2].astype(int)
        for step in range(len(joins))[::-1]:  # join `step` makes cluster n + step
            owner[joins[step]] = owner[n + step]
    _, first, group = np.unique(owner[:n], return_index=True, return_inverse=True)
    return torch.from_numpy(first[group]).to(distance.device)


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    """Keep the same share at each of the three places, blocks 3, 6 and 9 of 12; it leaves a third."""
    alive, stages = PATCHES, []
    for block in (3, 6, 9):
        alive = int(PATCHES * (1 / 3) ** (block / 9))
        stages.append(PresetStage("vision", alive / PATCHES, (block, 12)))
    return tuple(stages)


@dataclass(frozen=True)
class ATC(Reducer):
    """Join the two nearest clusters of tokens (by mean key) again and again, and average what is left.

    Means are weighted by how many patches a token stands for.

    Source: Agglomerative Token Clustering, arXiv 2409.11923.
    Differs: a cluster stands at its first token, so the image's order is kept; the authors emit clusters in
        the order of a clustering library. Their optional bias by size in later blocks is left out. Joins of
        equal distance go in the order of SciPy's linkage.
    Cost: 2 N^2 hd for the cosines; the clustering itself (N^2 comparisons) runs on the CPU.
    """

    name: ClassVar[str] = "atc"
    title: ClassVar[str] = "ATC"
    source: ClassVar[Source] = Source("Agglomerative Token Clustering", "2409.11923")
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_keys",)
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("atc", _published, note="equal shares after each quarter of the tower, a third left"),
    )

    linkage: str = param(
        "average",
        choices=("average", "complete", "single"),
        help="Which distance between members counts as that of two clusters.",
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        target = torch.full_like(view.source, -1)
        for row, count in enumerate(budgets(view, budget).tolist()):
            n = int(view.counts[row])
            apart = 1 - cosine(view.signals["block_keys"][row : row + 1, :n])[0]
            target[row, :n] = clusters(apart, count, self.linkage)
        return merge(target)

    def flops(self, shape: Shape) -> float:
        return shape.n**2 * (2.0 * shape.head_dim + 2)
