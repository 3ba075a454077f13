"""iLLaVA: inside the tower, the least attended tokens go into one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Source, TokenView, budgets
from autotc.scoring import heads, rank_of, ranking


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    """92 tokens of 729 go in each of the blocks 5 to 8 of 27."""
    return tuple(PresetStage("vision", 1 - 92 * i / 729, (4 + i, 27)) for i in range(1, 5))


def _once(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return (PresetStage("vision", 361 / 729, (1, 4)),)


@dataclass(frozen=True)
class ILlava(Reducer):
    """Merge the tokens that receive least attention in the block into the most attended of them.

    The least attended token weighs most: weights fall by one from token to token.

    Source: iLLaVA: An Image is Worth Fewer Than 1/3 Input Tokens in Large Multimodal Models, arXiv
        2412.06263.
    Differs: this is the tower's stage; the language model's is another reducer's. The merged value isn't
        rounded to float16. Ties go to the lowest index.
    Cost: the attention map that the signal needs, and a sort.
    """

    name: ClassVar[str] = "illava"
    title: ClassVar[str] = "iLLaVA (tower)"
    source: ClassVar[Source] = Source(
        "iLLaVA: An Image is Worth Fewer Than 1/3 Input Tokens in Large Multimodal Models", "2412.06263"
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_received_attention",)
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("illava", _published, note="92 of 729 tokens go in each of four early blocks"),
        Preset("illava-once", _once, note="the same number goes in one block, a quarter into the tower"),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        score = heads(view.signals["block_received_attention"])
        gone = view.counts - budgets(view, budget)
        order = ranking(-score, view.valid)
        rank = rank_of(order)
        group = view.valid & (rank <= gone[:, None]) & (gone > 0)[:, None]
        anchor = order.gather(1, gone.clamp_max(order.shape[1] - 1)[:, None])
        itself = torch.arange(rank.shape[1], device=rank.device).expand_as(rank)
        target = torch.where(group, anchor, torch.where(view.valid, itself, -1))
        weight = torch.where(group, gone[:, None] + 1 - rank, 1)
        return merge(target, weight, normalise="count")
