"""PiToMe: merge only tokens with many near duplicates, protect the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.kernels import bipartite_match
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, fold, per_row, rank_of, ranking


def energy(metric: Tensor, valid: Tensor, margin: float, alpha: float = 1.0) -> Tensor:
    """Return how crowded each token's surroundings are: the mean ELU of cosine minus margin, as (B, N)."""
    near = torch.nn.functional.elu(cosine(metric) - margin, alpha)
    return near.masked_fill(~valid[:, None, :], 0).sum(-1) / valid.sum(1, keepdim=True).clamp_min(1)


def density(metric: Tensor, valid: Tensor, margin: float) -> Tensor:
    """Return the mean Gaussian of the distance (1 - cosine) to the others, of width 1 - margin, as (B, N)."""
    near = (-0.5 * ((1 - cosine(metric)) / (1 - margin)).square()).exp() / ((1 - margin) * math.tau**0.5)
    return near.masked_fill(~valid[:, None, :], 0).sum(-1) / valid.sum(1, keepdim=True).clamp_min(1)


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    """As many merges in every block, to a third of the tokens; margins fall from 0.9 to 0."""
    last, depth = anatomy.vision.blocks_used - 1, anatomy.vision.blocks
    return tuple(
        PresetStage(
            "vision", 1 - 2 / 3 * j / last, (j, depth), (("margin", round(0.9 - 0.9 * j / depth, 4)),)
        )
        for j in range(1, last + 1)
    )


def _quarters(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return tuple(
        PresetStage("vision", 1 - 2 / 3 * j / 3, (j, 4), (("margin", round(0.9 - 0.9 * j / 4, 4)),))
        for j in range(1, 4)
    )


@dataclass(frozen=True)
class PiToMe(Reducer):
    """Order tokens by energy and merge every other of the highest into the most similar of those between.

    Energy is high where many tokens (mean key) are more alike than a margin; low energy protects a token.

    Source: Accelerating Transformers with Spectrum-Preserving Token Merging, arXiv 2405.16148.
    Differs: the block is told how many tokens come out. One matching halves the tokens at most; where the
        budget asks for more, matchings are repeated on the merged keys. Output stays in the image's order, a
        merged token stands at its destination. Block 0 never merges. Ties go to the lowest index.
    Cost: 2 N^2 hd a matching.
    """

    name: ClassVar[str] = "pitome"
    title: ClassVar[str] = "PiToMe"
    source: ClassVar[Source] = Source(
        "Accelerating Transformers with Spectrum-Preserving Token Merging", "2405.16148"
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_keys",)
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("pitome", _published, note="the same number merged in every block, margins from 0.9 to 0"),
        Preset(
            "pitome-quarters", _quarters, note="merges at a quarter, half and three quarters of the tower"
        ),
    )

    margin: float = param(0.5, low=0.0, high=0.9, help="Cosine above which two tokens crowd one another.")
    alpha: float = param(1.0, low=0.0, high=2.0, search=False, help="Scale of the ELU below the margin.")
    protect: bool = param(True, help="Protect tokens of low energy; else match all, in the order of energy.")
    text: bool = param(
        False, search=False, help="As theirs for text: Gaussian energy; the highest half goes into the next."
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        keys = view.signals["block_keys"]
        return merge(fold(keys, view.size, budgets(view, budget), view.valid, self._match))

    def _match(self, metric: Tensor, valid: Tensor, away: Tensor) -> Tensor:
        if self.text:
            crowd = density(metric, valid, self.margin)
        else:
            crowd = energy(metric, valid, self.margin, self.alpha)
        order = ranking(crowd, valid)
        away = torch.minimum(per_row(away, metric), valid.sum(1) // 2)
        place = torch.arange(order.shape[1], device=order.device)[None]
        if self.text:  # the highest to even places, the next to those between
            mixed = place // 2 + place % 2 * away[:, None]
            order = order.gather(1, torch.where(place < 2 * away[:, None], mixed, place))
        # in the order of energy: even places go, odd places receive
        metric = metric.gather(1, order[..., None].expand_as(metric))
        open_ = valid.gather(1, order)
        if self.protect:
            open_ = open_ & (place < 2 * away[:, None])
        into = bipartite_match(metric, away, open_)
        return order.gather(1, into).gather(1, rank_of(order))

    def flops(self, shape: Shape) -> float:
        total, n = 0.0, shape.n
        while n > max(shape.k, 1):
            total += 2.5 * n**2 * shape.head_dim
            n = max(shape.k, n - n // 2, 1)
        return total
