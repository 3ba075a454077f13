"""SAINT: tokens that many others resemble are redundant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import normalised, ranking


@dataclass(frozen=True)
class Saint(Reducer):
    """Drop tokens of even place whose keys resemble those of many tokens of odd place.

    Signal: keys of the layer before the cut, mean over heads; selector: bipartite redundancy, with a count of
    its own.

    Source: Similarity-Aware Token Pruning: Your VLM but Faster, arXiv 2503.11549.
    Differs: the budget caps what stays: where too many do, more even tokens leave, and the round is repeated
        on the rest; the count is taken an image (the authors take the mean of a batch).
    Cost: cosines of half the tokens with the other half.
    """

    name: ClassVar[str] = "saint"
    title: ClassVar[str] = "SAINT"
    source: ClassVar[Source] = Source("Similarity-Aware Token Pruning: Your VLM but Faster", "2503.11549")
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("keys",)
    adaptive: ClassVar[bool] = True

    threshold: float = param(0.83, low=0.0, high=1.0, help="Cosine from which two tokens are neighbours.")
    neighbours: int = param(5, low=1, high=64, help="Neighbours that make a token redundant.")
    gamma: float = param(10.0, low=0.0, high=50.0, help="How much closer neighbours count more.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        keys = normalised(view.signals["keys"].float().mean(1))
        keep = view.valid.clone()
        for row, wanted in enumerate(budgets(view, budget).tolist()):
            here = view.valid[row].nonzero()[:, 0]
            first = True
            while wanted and (first or len(here) > wanted):
                order, redundant = self.round(keys[row, here])
                gone = max(redundant if first else 0, min(len(order), len(here) - wanted))
                here = here[_without(len(here), order[:gone])]
                first = False
            keep[row] = False
            keep[row, here[:wanted]] = True
        return select(keep)

    def round(self, keys: Tensor) -> tuple[Tensor, int]:
        """Rank the even places of unit keys (N, hd), most redundant first; count the redundant ones."""
        even, odd = keys[0::2], keys[1::2]
        if not len(odd):
            return torch.arange(0, device=keys.device), 0
        alike = even @ odd.T
        near = alike >= self.threshold
        count = near.sum(1)
        excess = (alike - self.threshold).masked_fill(~near, 0).sum(1) / count.clamp_min(1)
        score = torch.where(count > 0, count * (self.gamma * excess).exp(), alike.mean(1))
        return 2 * ranking(score[None])[0], int((count >= self.neighbours).sum())

    def flops(self, shape: Shape) -> float:
        total, n = float(shape.n * shape.heads * shape.head_dim), shape.n
        while n > max(shape.k, 1):  # rounds that remove at most the even half
            total += 2.0 * (n // 2) * (n - n // 2) * shape.head_dim
            n = max(n // 2, shape.k)
        return total


def _without(n: int, places: Tensor) -> Tensor:
    """Return a mask (n,) that leaves places out."""
    mask = torch.ones(n, dtype=torch.bool, device=places.device)
    mask[places] = False
    return mask
