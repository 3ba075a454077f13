"""DiffRate: inside the tower, drop the least attended tokens and merge the next ones into their nearest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, nearest, rank_of, ranking


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return tuple(PresetStage("vision", 1 - 2 / 3 * j / 3, (j, 4)) for j in range(1, 4))


@dataclass(frozen=True)
class DiffRate(Reducer):
    """By falling CLS attention, keep the first tokens, merge the next into their nearest, drop the last.

    Source: DiffRate: Differentiable Compression Rate for Efficient Vision Transformers, arXiv 2305.17997.
    Differs: how many tokens each block drops and merges is learned by the authors; here the budget and
        `dropped` say it. A merged token's size is the plain sum of sizes, theirs discounts each part by its
        similarity. Tokens stay in the image's order, theirs by attention. A tower without a CLS row is read
        by received attention. Block 0 keeps all. Ties go to the lowest index.
    Cost: 2 N^2 D for the cosines of the block's tokens.
    """

    name: ClassVar[str] = "diffrate"
    title: ClassVar[str] = "DiffRate"
    source: ClassVar[Source] = Source(
        "DiffRate: Differentiable Compression Rate for Efficient Vision Transformers", "2305.17997"
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_cls_attention",)
    instead: ClassVar[Mapping[str, str]] = {"block_cls_attention": "block_received_attention"}
    size_bias: ClassVar[bool] = True
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("diffrate", _published, note="equal steps at a quarter, half and three quarters of the tower"),
    )

    dropped: float = param(
        0.5, low=0.0, high=1.0, help="Share of the removed tokens that is dropped, not merged."
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        known = "block_cls_attention" in view.signals
        score = heads(view.signals["block_cls_attention" if known else "block_received_attention"])
        rank = rank_of(ranking(score, view.valid))
        count = budgets(view, budget)
        gone = ((view.counts - count) * self.dropped + 0.5).floor().long()
        kept = view.valid & (rank < count[:, None])
        merged = view.valid & ~kept & (rank < (view.counts - gone)[:, None]) & (count > 0)[:, None]
        into = nearest(cosine(view.x), kept)
        itself = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
        target = torch.where(kept, itself, torch.where(merged, into, -1))
        return merge(target, normalise="count")

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n**2 * shape.d
