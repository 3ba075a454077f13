"""MMTok: cover the question's words and the image's own tokens with few tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.kernels import greedy_cover
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, order_mask


def _shares(similarity: Tensor, temperature: float, rows: Tensor, columns: Tensor) -> Tensor:
    """Return softmax rows over the real columns, divided by the number of real rows; other rows are zero."""
    logits = (similarity / temperature).masked_fill(~columns[:, None, :], -torch.inf)
    shares = logits.softmax(-1).masked_fill(~rows[..., None], 0)
    return shares / rows.sum(1).clamp_min(1)[:, None, None]


@dataclass(frozen=True)
class MMTok(Reducer):
    """Add, again and again, the token that covers most of the text and of the other tokens.

    A text token or a visual token is covered as well as the best chosen token's share of its softmax
    similarity.

    Source: MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs, arXiv 2508.18264.
    Differs: keywords are the prompt's own tokens; the authors' LLaVA port joins the words and splits them into
        tokens anew. Their Qwen port takes the whole question. Without a processor, or with `keywords` off, all
        text behind the image counts. Patches of the padding band take part. Ties go to the lowest index.
    Cost: 2 N^2 Dv + 2 T N D for the cosines, 2 K (N + T) N for the gains.
    """

    name: ClassVar[str] = "mmtok"
    title: ClassVar[str] = "MMTok"
    source: ClassVar[Source] = Source(
        "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs", "2508.18264"
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("features", "text_embeds", "text_keywords")
    instead: ClassVar[Mapping[str, str]] = {"text_keywords": "text_embeds"}
    query_aware: ClassVar[bool] = True
    relevance: ClassVar[Literal["clip", "embedding", "none"]] = "embedding"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("mmtok", lambda anatomy: (PresetStage("projector", 64 / 576),), "compact", "64 of 576 tokens"),
    )

    alpha: float = param(0.5, low=0.0, high=4.0, help="Weight of covering the image against the text.")
    text_temperature: float = param(
        0.02, low=0.005, high=1.0, log=True, help="Softmax over text similarities."
    )
    image_temperature: float = param(
        0.2, low=0.005, high=1.0, log=True, help="Softmax over image similarities."
    )

    keywords: bool = param(True, help="Cover the question's keywords alone, not all text behind the image.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        text = view.signals["text_embeds"]
        words = view.text_valid if view.text_valid is not None else text.new_ones(text.shape[:2]).bool()
        if self.keywords and "text_keywords" in view.signals:
            named = words & (view.signals["text_keywords"] > 0.5)
            words = torch.where(named.any(1, keepdim=True), named, words)
        said = _shares(cosine(text, view.x), self.text_temperature, words, view.valid)
        seen = _shares(cosine(view.signals["features"]), self.image_temperature, view.valid, view.valid)
        count = budgets(view, budget)
        order = greedy_cover(torch.cat((said, self.alpha * seen), 1), count, view.valid)
        return select(order_mask(order, count, view.x.shape[1]))

    def flops(self, shape: Shape) -> float:
        cosines = shape.n**2 * shape.heads * shape.head_dim + shape.text * shape.n * shape.d
        return 2.0 * (cosines + shape.k * (shape.n + shape.text) * shape.n)
