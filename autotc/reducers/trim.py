"""TRIM: the tokens that answer the text most, and the mean of all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from autotc.assignment import Assignment, merge
from autotc.reducer import (
    Budget,
    Preset,
    PresetStage,
    Reducer,
    Shape,
    Source,
    TokenView,
    budgets,
    param,
    text_space,
)
from autotc.scoring import top_mask


@dataclass(frozen=True)
class Trim(Reducer):
    """Keep the tokens of highest text score and one more, the mean of all that are dropped.

    The score is the inner product with the text, in CLIP's space with the sign turned, as in the authors' code.

    Source: Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs (TRIM),
        arXiv 2409.10994.
    Differs: where no text encoder is at hand, the inner product is that of projected tokens with the mean of the
        prompt's word embeddings instead of that of CLIP's patches with its text tower. The mean token counts in
        the budget and stands at the first dropped token, not behind all. The count comes from the budget; the
        authors can also derive it from the scores' outliers. Nothing is rounded to float16. Ties go to the
        lowest index.
    Cost: 2 N D; the text encoder's pass over the question is not charged (13 GFLOP for CLIP ViT-L, 0.2 % of a
        LLaVA-1.5-7B request).
    """

    name: ClassVar[str] = "trim"
    title: ClassVar[str] = "TRIM"
    source: ClassVar[Source] = Source(
        "Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs",
        "2409.10994",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("clip_text", "clip_patches")
    instead: ClassVar[Mapping[str, str]] = {"clip_text": "text_embeds", "clip_patches": "text_embeds"}
    query_aware: ClassVar[bool] = True
    relevance: ClassVar[Literal["clip", "embedding", "none"]] = "clip"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "trim",
            lambda anatomy: (PresetStage("projector", 121 / 576),),
            "compact",
            "21 % of 576 tokens and the mean of the rest",
        ),
    )

    sign: int = param(
        0,
        choices=(-1, 0, 1),
        search=False,
        help="Sign of the product with the text; 0: -1 in CLIP's space as published, 1 among word embeddings.",
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        image, text, words, turned = text_space(view)
        mean = text.float().masked_fill(~words[..., None], 0).sum(1) / words.sum(1, keepdim=True).clamp_min(1)
        score = (self.sign or turned) * torch.einsum("bnd,bd->bn", image.float(), mean)
        count = budgets(view, budget)
        whole = count == view.counts
        kept = top_mask(score, torch.where(whole, count, count - 1), view.valid)
        lost = view.valid & ~kept & (count > 0)[:, None]
        first = lost.to(torch.int8).argmax(1, keepdim=True)
        itself = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
        return merge(torch.where(kept, itself, torch.where(lost, first, -1)), normalise="count")

    def flops(self, shape: Shape) -> float:
        return (2.0 * shape.n + shape.text) * shape.d
