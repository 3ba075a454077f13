"""TokenCarve: attention and information (singular values) ranked together, then pairs merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, rank_of, ranking


@dataclass(frozen=True)
class TokenCarve(Reducer):
    """Keep half more than the budget by fused rank, then merge pairs of the lower half into the upper half.

    Signals: last-query attention row, singular vectors of the hidden state; selector: rank fusion; merger:
    bipartite pairs, mean.

    Source: TokenCarve: Information-Preserving Visual Token Compression in Multimodal Large Language Models,
        arXiv 2503.10501.
    Differs: layers before the cut keep their caches whole (the authors cut those of layers 0 and 1 too); more
        tokens than the hidden width are possible; equal fused ranks go to the lowest index.
    Cost: the singular values by the products of all pairs of tokens, 2 N^2 D, and their eigenvectors, about 9 N^3,
        both in double precision: slow on a CPU.
    """

    name: ClassVar[str] = "tokencarve"
    title: ClassVar[str] = "TokenCarve"
    source: ClassVar[Source] = Source(
        "TokenCarve: Information-Preserving Visual Token Compression in Multimodal Large Language Models",
        "2503.10501",
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("last_attention",)
    query_aware: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "tokencarve",
            lambda anatomy: (PresetStage("decoder", 1 / 3, (2, anatomy.decoder.layers)),),
            note="192 of 576 tokens go on from layer 2",
        ),
    )

    attention: float = param(0.5, low=0.0, high=1.0, help="Weight of the attention's rank.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        seen = heads(view.signals["last_attention"])
        target = torch.full_like(view.source, -1)
        pairs = zip(view.counts.tolist(), budgets(view, budget).tolist(), strict=True)
        for row, (n, wanted) in enumerate(pairs):
            if n:
                scores = fused(seen[row, :n], energy(view.x[row, :n]), self.attention)
                target[row, :n] = carve(view.x[row, :n], ranking(scores[None])[0], wanted)
        return merge(target, normalise="count")

    def flops(self, shape: Shape) -> float:
        decomposition = 2 * shape.n**2 * shape.d + 9 * shape.n**3
        return shape.n * shape.heads * (2 * shape.head_dim + 1) + decomposition + 2 * shape.k**2 * shape.d


def energy(x: Tensor) -> Tensor:
    """Return what each row of x (N, D) contributes to its singular values: sum_j |U_ij| S_j, (N,) float32."""
    wide = x.double()  # the eigenvalues of x x^T are squares, which float32 would not hold
    squares, u = torch.linalg.eigh(wide @ wide.T)
    contributions: Tensor = (u * squares.clamp_min(0).sqrt()).abs().sum(1)
    return contributions.float()


def fused(seen: Tensor, information: Tensor, weight: float) -> Tensor:
    """Return the weighted mean of two ranks, N for the best and 1 for the last, (N,) float32."""
    n = len(seen)
    by_attention, by_information = (n - rank_of(ranking(score[None]))[0] for score in (seen, information))
    return weight * by_attention + (1 - weight) * by_information


def carve(x: Tensor, order: Tensor, wanted: int) -> Tensor:
    """Return the token each of N tokens goes into, or -1: `wanted` come out.

    Args:
        x: (N, D).
        order: (N,) best first.
        wanted: tokens that come out, at most N.
    """
    first = min(wanted // 2 * 3 + wanted % 2, len(x))  # int(wanted / 2 * 3)
    upper, lower = order[: int(0.5 * first)], order[int(0.5 * first) : first]
    target = torch.full_like(order, -1).index_put_((order[:first],), order[:first])
    if len(upper) and first > wanted:
        alike, match = cosine(x[lower][None], x[upper][None])[0].max(1)
        merged = ranking(alike[None])[0, : first - wanted]
        target[lower[merged]] = upper[match[merged]]
    return target
