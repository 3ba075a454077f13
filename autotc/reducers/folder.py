"""FOLDER: fold the projected tokens by repeated matching until the budget is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, merge
from autotc.kernels import bipartite_match
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import fold


@dataclass(frozen=True)
class Folder(Reducer):
    """Merge the most similar neighbours in rounds of at most half; longer means for larger groups.

    Source: FOLDER: Accelerating Multi-modal Large Language Models with Enhanced Performance, arXiv
        2501.02430.
    Differs: this is the authors' simplified function for any place, which reads features alone; their version
        in the tower's last blocks also spares tokens of high CLS attention. Means are
        lengthened by `lengthen`, as in their latest code; before, a single round that left less than two
        thirds of the tokens didn't. Ties go to the lowest index.
    Cost: 2 (N / 2)^2 D a round.
    """

    name: ClassVar[str] = "folder"
    title: ClassVar[str] = "FOLDER"
    source: ClassVar[Source] = Source(
        "FOLDER: Accelerating Multi-modal Large Language Models with Enhanced Performance", "2501.02430"
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "folder",
            lambda anatomy: (PresetStage("projector", 0.34),),
            "compact",
            "66 % of the tokens folded",
        ),
    )

    lengthen: bool = param(True, help="Multiply a mean by 1 + log of its group's size.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        def match(metric: Tensor, valid: Tensor, away: Tensor) -> Tensor:
            half = ((valid.sum(1) + view.prefix - 1) // 2).clamp_min(1)
            return bipartite_match(metric, torch.minimum(away, half), valid, view.prefix)

        ones = torch.ones_like(view.size)
        target = fold(view.x, ones, budgets(view, budget), view.valid, match)
        into = target.clamp_min(0)
        members = torch.zeros_like(ones).scatter_add_(1, into, (target >= 0).to(ones.dtype)).gather(1, into)
        members = members.clamp_min(1)
        weight = (1 + members.log()) / members if self.lengthen else 1 / members
        return merge(target, weight, normalise="none")

    def flops(self, shape: Shape) -> float:
        total, n = 0.0, shape.n
        while n > max(shape.k, 1):
            total += 2.0 * (n // 2) * (n - n // 2) * shape.d
            n = max(shape.k, n - max((n - 1) // 2, 1), 1)
        return total
