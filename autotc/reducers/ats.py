"""ATS: inside the tower, sample tokens evenly along the cumulated score of CLS attention and value length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView
from autotc.scoring import heads, per_row


def sample(scores: Tensor, draws: int) -> Tensor:
    """Return (N,) bool, the tokens that the draws meet.

    The scores, sorted, are cumulated to a curve from 0 to 1. The draws stand at equal steps from its least
    number above 0 to 1, and each takes the nearest of the `draws` highest tokens.

    Args:
        scores: (N,), not negative.
        draws: at least 1; tokens that are met twice count once.
    """
    n = len(scores)
    order = torch.argsort(scores.nan_to_num(nan=0.0), stable=True)
    curve = scores.nan_to_num(nan=0.0)[order].cumsum(0)
    curve = (curve - curve[0]) / (curve[-1] - curve[0]).clamp_min(torch.finfo(curve.dtype).tiny)
    above = curve[curve > 0]
    start = above.amin() if len(above) else curve.new_ones(())
    steps = torch.arange(draws, dtype=curve.dtype, device=curve.device) / max(draws - 1, 1)
    candidates = curve[max(n - draws, 0) :]
    nearest = ((start + (1 - start) * steps)[:, None] - candidates).abs().argmin(1)
    met = torch.zeros(n, dtype=torch.bool, device=scores.device)
    met[order[max(n - draws, 0) + nearest]] = True
    return met


def _quarters(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return tuple(PresetStage("vision", 1 - 2 / 3 * j / 3, (j, 4)) for j in range(1, 4))


@dataclass(frozen=True)
class ATS(Reducer):
    """Keep the tokens that evenly spaced draws from the inverse distribution of scores meet.

    A token's score is its CLS attention times the length of its value; few tokens with most of the score are
    met often, so fewer than the budget are kept.

    Source: ATS: Adaptive Token Sampling For Efficient Vision Transformers, arXiv 2111.15667.
    Differs: the budget is the number of draws (theirs is a constant, 196 for 196 patches). Kept tokens stay in
        the image's order, theirs go by rising score and are padded with zeros. A tower without a CLS row is
        read by received attention. Equal scores are sorted by index; of equally near tokens the lower score
        is met.
    Cost: the values' lengths, 2 N D, and K^2 differences.
    """

    name: ClassVar[str] = "ats"
    title: ClassVar[str] = "ATS"
    source: ClassVar[Source] = Source(
        "ATS: Adaptive Token Sampling For Efficient Vision Transformers", "2111.15667"
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_cls_attention", "block_values")
    instead: ClassVar[Mapping[str, str]] = {"block_cls_attention": "block_received_attention"}
    adaptive: ClassVar[bool] = True
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("ats", _quarters, note="a third drawn in equal steps over three quarters of the tower"),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        known = "block_cls_attention" in view.signals
        seen = heads(view.signals["block_cls_attention" if known else "block_received_attention"], "sum")
        length = view.signals["block_values"].float().square().sum((1, 3)).sqrt()
        keep = torch.zeros_like(view.valid)
        for row, draws in enumerate(per_row(budget, view.x).tolist()):
            n = int(view.counts[row])
            score = (seen * length)[row, :n]
            keep[row, :n] = sample(score / score.sum().clamp_min(torch.finfo(score.dtype).tiny), draws)
        return select(keep)

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n * shape.heads * shape.head_dim + 2.0 * min(shape.n, shape.k) * shape.k
