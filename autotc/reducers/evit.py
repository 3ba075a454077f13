"""EViT: inside the tower, keep what CLS attends to and fuse the rest into one token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Source, TokenView, budgets, param
from autotc.scoring import heads, ranking, top_mask

PATCHES = 576


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    """Keep 70 % (rounded up) and the fused token in blocks 3, 6 and 9 of 12."""
    alive, stages = PATCHES, []
    for block in (3, 6, 9):
        alive = ceil(0.7 * alive) + 1
        stages.append(PresetStage("vision", alive / PATCHES, (block, 12)))
    return tuple(stages)


@dataclass(frozen=True)
class EViT(Reducer):
    """Keep the tokens of highest CLS attention in the block and the sum of the others, weighted by it.

    Source: Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations, arXiv
        2202.07800.
    Differs: the fused token counts in the budget and stands at the dropped token of highest attention, not at
        the end; kept tokens stay in the image's order, not by attention. A tower without a CLS row is read by
        received attention. Ties go to the lowest index.
    Cost: a sort, and the fused sum.
    """

    name: ClassVar[str] = "evit"
    title: ClassVar[str] = "EViT"
    source: ClassVar[Source] = Source(
        "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations",
        "2202.07800",
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_cls_attention",)
    instead: ClassVar[Mapping[str, str]] = {"block_cls_attention": "block_received_attention"}
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("evit", _published, note="70 % and a fused token after each quarter of the tower"),
    )

    fuse: bool = param(True, help="Whether dropped tokens go into one fused token.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        known = "block_cls_attention" in view.signals
        score = heads(view.signals["block_cls_attention" if known else "block_received_attention"])
        count = budgets(view, budget)
        extra = (count < view.counts) & (count > 0) & self.fuse
        kept = top_mask(score, count - extra.long(), view.valid)
        lost = view.valid & ~kept & extra[:, None]
        first = ranking(score, lost)[:, :1]
        itself = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
        target = torch.where(kept, itself, torch.where(lost, first, -1))
        # a fused token without any weight would not contain its own place
        weight = score.clamp_min(torch.finfo(score.dtype).tiny)
        return merge(target, torch.where(lost, weight, 1.0), normalise="none")
