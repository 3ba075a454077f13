"""Turbo: merge similar neighbours inside the vision tower, but spare the tokens that CLS attends to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.kernels import bipartite_match
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import fold, heads

PATCHES, KEPT = 576, 192  # 16 merges in each of the 24 blocks of LLaVA-1.5's tower


def _every_block(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    """The same number in every block that may cut; the last one settles what rounding left."""
    depth, last = anatomy.vision.blocks, anatomy.vision.blocks_used - 1
    each = (PATCHES - KEPT) // last
    counts = [PATCHES - each * j for j in range(1, last)]
    return tuple(
        PresetStage("vision", count / PATCHES, (j, depth), (("alpha", 5.0),))
        for j, count in enumerate([*counts, KEPT], start=1)
    )


def _last_blocks(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    """FOLDER's plan: ten parts of eleven in the last block, the rest two blocks before."""
    depth, last = anatomy.vision.blocks, anatomy.vision.blocks_used - 1
    removed = PATCHES - KEPT
    alpha = (("alpha", 5.0),)
    return (
        PresetStage("vision", 1 - (removed - removed * 10 // 11) / PATCHES, (last - 2, depth), alpha),
        PresetStage("vision", KEPT / PATCHES, (last, depth), alpha),
    )


@dataclass(frozen=True)
class Turbo(Reducer):
    """Send the even tokens that are most redundant and least salient to their most similar odd token.

    An edge is worth the cosine of the mean keys minus 30 alpha times the sender's CLS attention. A merged token
    has the sum of its parts' attention and the mean, weighted by size, of their keys and states.

    Source: Turbo: Informativity-Driven Acceleration Plug-In for Vision-Language Large Models, arXiv 2407.11717;
        the plan for the last blocks is FOLDER's, arXiv 2501.02430.
    Differs: the block is told how many tokens come out. Output stays in the image's order, also between the
        rounds of a block that removes more than half, where the authors go on with the unsent even tokens and
        then the odd ones. Their guard against merging below 40 tokens is left out. Block 0 never merges. A
        tower without a CLS row is read by received attention. Ties go to the lowest index.
    Cost: 2 (N / 2)^2 hd a round.
    """

    name: ClassVar[str] = "turbo"
    title: ClassVar[str] = "Turbo"
    source: ClassVar[Source] = Source(
        "Turbo: Informativity-Driven Acceleration Plug-In for Vision-Language Large Models", "2407.11717"
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_keys", "block_cls_attention")
    instead: ClassVar[Mapping[str, str]] = {"block_cls_attention": "block_received_attention"}
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("turbo", _every_block, note="the same number merged in every block, 192 of 576 left"),
        Preset("turbo-last", _last_blocks, note="FOLDER in the tower: all merges in the last blocks"),
    )

    alpha: float = param(1.0, low=0.0, high=10.0, help="Weight of a sender's attention against similarity.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        known = "block_cls_attention" in view.signals
        salient = heads(view.signals["block_cls_attention" if known else "block_received_attention"])

        def match(metric: Tensor, valid: Tensor, away: Tensor, salient: Tensor) -> Tensor:
            half = ((valid.sum(1) + view.prefix - 1) // 2).clamp_min(1)
            away = torch.minimum(away, half)
            return bipartite_match(metric, away, valid, view.prefix, penalty=30 * self.alpha * salient)

        keys = view.signals["block_keys"]
        return merge(fold(keys, view.size, budgets(view, budget), view.valid, match, salient))

    def flops(self, shape: Shape) -> float:
        total, n = 0.0, shape.n
        while n > max(shape.k, 1):
            total += 2.0 * (n // 2) * (n - n // 2) * shape.head_dim
            n = max(shape.k, n - max((n - 1) // 2, 1), 1)
        return total
