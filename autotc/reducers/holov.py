"""HoloV: share the budget among stretches of the image by how much there is to see in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import heads, top_mask

SCALE = 1000.0  # of the attention, against the variance


def stretch_scores(x: Tensor, attention: Tensor, parts: int, beta: float) -> Tensor:
    """Return the mean score of each of `parts` stretches of one image: attention plus spread of similarity.

    Args:
        x: (N, D).
        attention: (N,).
        parts: stretches of consecutive tokens; the first ones are a token longer where N doesn't divide.
        beta: weight of the spread, brought to the scale of the attention.
    """
    unit = x.float() / (x.float().norm(dim=-1, keepdim=True) + 1e-6)
    scores = []
    for rows, a in zip(unit.tensor_split(parts), attention.float().tensor_split(parts), strict=True):
        n = len(a)
        if n == 1:
            scores.append(a[0])
            continue
        alike = (rows @ rows.T).fill_diagonal_(0)
        mean = alike.sum(1, keepdim=True) / (n - 1)
        spread = (alike - mean).square().sum(1) / (n - 1)
        weight = (SCALE * a).abs().mean() / (spread.abs().mean() + 1e-6)
        scores.append((SCALE * a + beta * weight * spread).mean())
    return torch.stack(scores)


def shares(scores: Tensor, count: int) -> list[int]:
    """Split `count` tokens among stretches in proportion to their scores, remainders to the highest."""
    scores = scores.clamp_min(0)
    part = scores / (scores.sum() + 1e-6)
    out = (part * count).floor().long()
    rest = min(count - int(out.sum()), len(out))
    return (out + top_mask(part[None], rest)[0]).tolist()


@dataclass(frozen=True)
class HoloV(Reducer):
    """Split the image into stretches, give each its share of the budget, and keep by CLS attention in each.

    Source: Don't Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention,
        arXiv 2510.02912.
    Differs: a stretch whose share exceeds its tokens leaves the rest to the tokens of highest attention
        elsewhere (the authors pad with zero rows). Tokens stay in the image's order, theirs by attention
        within a stretch. A tower without a CLS row is read by received attention. Ties go to the lowest
        index.
    Cost: 2 N^2 D / stretches.
    """

    name: ClassVar[str] = "holov"
    title: ClassVar[str] = "HoloV"
    source: ClassVar[Source] = Source(
        'Don\'t Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention',
        "2510.02912",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("cls_attention",)
    instead: ClassVar[Mapping[str, str]] = {"cls_attention": "received_attention"}
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("holov", lambda anatomy: (PresetStage("projector", 64 / 576),), "compact", "64 of 576 tokens"),
    )

    parts: int = param(16, low=1, high=64, log=True, help="Stretches of consecutive tokens.")
    beta: float = param(
        0.09, low=0.0, high=2.0, help="Weight of the spread of similarity in a stretch's score."
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        name = "cls_attention" if "cls_attention" in view.signals else "received_attention"
        attention = heads(view.signals[name])
        keep = torch.zeros_like(view.valid)
        for row, count in enumerate(budgets(view, budget).tolist()):
            n = int(view.counts[row])
            parts, a = min(self.parts, n), attention[row, :n]
            if count == 0:
                continue
            wanted = shares(stretch_scores(view.x[row, :n], a, parts, self.beta), count)
            stretches = a.tensor_split(parts)
            chosen = torch.cat([top_mask(s[None], k)[0] for s, k in zip(stretches, wanted, strict=True)])
            spare = count - int(chosen.sum())
            keep[row, :n] = chosen | top_mask(a[None], spare, ~chosen[None])[0]
        return select(keep)

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n**2 / min(self.parts, max(shape.n, 1)) * shape.d
