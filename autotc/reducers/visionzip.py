"""VisionZip: the tokens with most CLS attention, and the rest merged into a few evenly spaced ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, nearest, top_mask


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return (PresetStage("projector", keep=64 / 576, params=(("contextual", 10 / 64),)),)


@dataclass(frozen=True)
class VisionZip(Reducer):
    """Keep the tokens of highest CLS attention and merge the rest into evenly spaced ones.

    With 64 tokens 54 are dominant and 10 contextual, as published (108 + 20 and 162 + 30 likewise). A
    contextual token is its own feature plus the mean of the tokens sent to it, so its length about doubles: a
    sum, as in the authors' code.

    Source: VisionZip: Longer is Better but Not Necessary in Vision Language Models, arXiv 2412.04467.
    Differs: the CLS row isn't emitted (it is no visual token here), its place goes to one more dominant
        token; tokens stay in the image's order instead of dominant, then contextual; merging comes after the
        projector, as in the authors' Qwen2.5-VL port, not before. A tower without a CLS row is read by
        received attention, as in that port. The split is the nearest whole number. Ties go to the lowest
        index.
    Cost: one attention row and the cosines of the rest with the contextual tokens, 2 (N - K) C hd.
    """

    contextual: float = param(
        10 / 64, low=0.0, high=1.0, help="Share of the budget that goes to merged (contextual) tokens."
    )

    name: ClassVar[str] = "visionzip"
    title: ClassVar[str] = "VisionZip"
    source: ClassVar[Source] = Source(
        "VisionZip: Longer is Better but Not Necessary in Vision Language Models", "2412.04467"
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("cls_attention", "vision_keys")
    instead: ClassVar[Mapping[str, str]] = {"cls_attention": "received_attention"}
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("visionzip", _published, "compact", "54 dominant and 10 contextual tokens of 576"),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        name = "cls_attention" if "cls_attention" in view.signals else "received_attention"
        score = heads(view.signals[name], "sum")
        count = budgets(view, budget)
        extra = (count * self.contextual + 0.5).floor().long()
        dominant = top_mask(score, count - extra, view.valid)
        rest = view.valid & ~dominant
        place = rest.long().cumsum(1) - 1
        stride = (rest.sum(1) // extra.clamp_min(1)).clamp_min(1)[:, None]
        centre = rest & (place % stride == 0) & (place // stride < extra[:, None])
        itself = torch.arange(rest.shape[1], device=rest.device).expand_as(rest)
        into = nearest(cosine(view.signals["vision_keys"]), centre)
        sent = rest & ~centre & (extra > 0)[:, None]
        target = torch.where(dominant | centre, itself, torch.where(sent, into, -1))
        received = torch.zeros_like(target).scatter_add_(1, into, sent.long())
        weight = torch.where(sent, 1 / received.gather(1, into).clamp_min(1), 1.0)
        return merge(target, weight, normalise="none")

    def flops(self, shape: Shape) -> float:
        # the cosines of all pairs, of which the merging reads a part
        return 2.0 * shape.n * shape.heads * shape.head_dim + 2.0 * shape.n**2 * shape.head_dim
