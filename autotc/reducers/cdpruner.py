"""CDPruner: a diverse set of tokens, conditioned on the question (determinantal point process)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.kernels import greedy_volume
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
from autotc.scoring import cosine, order_mask


def relevance(
    image: Tensor, text: Tensor, words: Tensor, valid: Tensor, sign: int = -1, together: bool = False
) -> Tensor:
    """Return how relevant each token is to the text, in (0, 1], as (B, N).

    Args:
        image: (B, N, E) and
        text: (B, T, E) in one space.
        words: (B, T) bool, real text rows.
        valid: (B, N) bool, real tokens.
        sign: of the cosine; the authors count the negative one, as CLIP's patches answer with the sign
            turned.
        together: one range for the whole batch, as in the authors' code, instead of one an image.
    """
    alike = sign * cosine(image, text).masked_fill(~words[:, None, :], 0)
    mean = alike.sum(-1) / words.sum(1, keepdim=True).clamp_min(1)
    low, high = mean.masked_fill(~valid, torch.inf), mean.masked_fill(~valid, -torch.inf)
    low, high = (low.amin(), high.amax()) if together else (low.amin(1, True), high.amax(1, True))
    return (mean - low + 1e-6) / (high - low).clamp_min(1e-12)


def choose(x: Tensor, relevant: Tensor, count: Tensor, valid: Tensor) -> Tensor:
    """Return (B, K) tokens in the order of choice, by residual variance of cosine times both relevances."""
    kernel = relevant[:, :, None] * cosine(x) * relevant[:, None, :]
    return greedy_volume(kernel, count, valid)


@dataclass(frozen=True)
class CDPruner(Reducer):
    """Choose greedily the tokens that span most, each scaled by its relevance to the text.

    Source: Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs, arXiv
        2506.10967.
    Differs: where no text encoder is at hand, relevance is the cosine of projected tokens with the prompt's word
        embeddings instead of that of CLIP's patches with its text tower. Each image has its own range of relevance
        (the authors take one over all tiles of a batch). Where the kernel's rank is used up, the authors
        divide by round-off; here the rest go by lowest index. Ties go to the lowest index.
    Cost: 2 N^2 D for the cosines and 2 N K^2 for the choice; the text encoder's pass over the question is not
        charged (13 GFLOP for CLIP ViT-L, 0.2 % of a LLaVA-1.5-7B request).
    """

    name: ClassVar[str] = "cdpruner"
    title: ClassVar[str] = "CDPruner"
    source: ClassVar[Source] = Source(
        "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
        "2506.10967",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("clip_text", "clip_patches")
    instead: ClassVar[Mapping[str, str]] = {"clip_text": "text_embeds", "clip_patches": "text_embeds"}
    query_aware: ClassVar[bool] = True
    relevance: ClassVar[Literal["clip", "embedding", "none"]] = "clip"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "cdpruner", lambda anatomy: (PresetStage("projector", 64 / 576),), "compact", "64 of 576 tokens"
        ),
    )

    sign: int = param(
        0,
        choices=(-1, 0, 1),
        search=False,
        help="Sign of the cosine with the text; 0: -1 in CLIP's space as published, 1 among word embeddings.",
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        image, text, words, turned = text_space(view)
        count = budgets(view, budget)
        relevant = relevance(image, text, words, view.valid, self.sign or turned)
        order = choose(view.x, relevant, count, view.valid)
        return select(order_mask(order, count, view.x.shape[1]))

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n * (shape.n * shape.d + shape.text * shape.d + shape.k**2)
