"""SAINT in the tower: the tokens that resemble all others most leave in a few rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import normalised, ranking


@dataclass(frozen=True)
class SaintVit(Reducer):
    """Drop, in rounds, the tokens whose keys have the largest cosines with all that are left.

    Signal: keys of the block before the cut, mean over heads; selector: degree in the full graph, a part of
    the tokens a round. The first round removes one token of `part`, the next one of as many as the round
    before removed, and so on by turns, as the authors' code does.

    Source: Similarity-Aware Token Pruning: Your VLM but Faster, arXiv 2503.11549.
    Differs: a CLS row does not count into the budget (the authors count it); equal sums go by lowest index.
    Cost: cosines of all tokens, and their sums in every round.
    """

    name: ClassVar[str] = "saint_vit"
    title: ClassVar[str] = "SAINT (tower)"
    source: ClassVar[Source] = Source("Similarity-Aware Token Pruning: Your VLM but Faster", "2503.11549")
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_keys",)

    part: int = param(16, low=1, high=64, help="The first round removes one token of so many.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        keys = normalised(view.signals["block_keys"])
        keep = view.valid.clone()
        for row, wanted in enumerate(budgets(view, budget).tolist()):
            here, gone = view.valid[row].nonzero()[:, 0], self.part
            alike = keys[row, here] @ keys[row, here].T
            while len(here) > wanted:
                gone = min(len(here) - wanted, max(len(here) // gone, 1))
                worst = ranking(alike.sum(1)[None])[0, :gone]
                left = torch.ones(len(here), dtype=torch.bool, device=here.device)
                left[worst] = False
                here, alike = here[left], alike[left][:, left]
            keep[row] = False
            keep[row, here] = True
        return select(keep)

    def flops(self, shape: Shape) -> float:
        # a part of `part` and one of 1 / part by turns: hardly ever more than `part` rounds of what is left
        return 2 * shape.n**2 * shape.head_dim + self.part * shape.n**2
