"""Recombined: the parts that published methods are made of, in any combination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment, merge, select
from autotc.kernels import greedy_volume
from autotc.reducer import Budget, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, nearest, order_mask, spread, top_mask


@dataclass(frozen=True)
class Recombined(Reducer):
    """A signal says how much a token matters, a selector which tokens stay, a merger what becomes of the others.

    Many published rules are such a combination: attention, top-k and drop is FasterVLM's, text, volume and drop close
    to CDPruner's, half and drop close to VisPruner's. This one makes the others reachable for a search.

    Source: own; a search space of the parts that published methods share.
    Differs: from each of them in details: signals are scaled to 0..1 in each image, and a merged token is the mean of
        its originals.
    Cost: one attention row a token (all of them on towers without a CLS row), cosines with the text, and with one
        another where the selector or the merger compares tokens.
    """

    name: ClassVar[str] = "recombined"
    title: ClassVar[str] = "Recombined parts"
    source: ClassVar[Source] = Source("Own: signal x selector x merger of published methods")
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction", "own"]] = "own"
    sites: ClassVar[tuple[str, ...]] = ("projector", "decoder")
    needs: ClassVar[tuple[str, ...]] = ("cls_attention", "text_embeds")
    instead: ClassVar[Mapping[str, str]] = {"cls_attention": "received_attention"}
    query_aware: ClassVar[bool] = True
    relevance: ClassVar[Literal["clip", "embedding", "none"]] = "embedding"
    crossed: ClassVar[bool] = True
    signal: str = param(
        "both", choices=("attention", "text", "both"), help="What says how much a token matters."
    )
    selector: str = param(
        "half",
        choices=("top", "half", "spread", "volume"),
        help="Highest signals; half of them and then the farthest; the farthest from the highest on; or largest "
        "volume of what they span, scaled by the signal.",
    )
    merger: str = param("nearest", choices=("drop", "nearest"), help="What becomes of the others.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        count, signal = budgets(view, budget), self._signal(view)
        if self.selector == "volume":
            kernel = signal[:, :, None] * cosine(view.x) * signal[:, None, :]
            order = greedy_volume(kernel, count, view.valid)
            kept = order_mask(order, count, view.x.shape[1])
        else:
            first = {"top": count, "half": (count + 1) // 2, "spread": count.clamp_max(1)}[self.selector]
            kept = top_mask(signal, first, view.valid)
            if self.selector != "top":
                kept = spread(view.x, kept, count, view.valid)
        if self.merger == "drop":
            return select(kept)
        itself = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
        into = torch.where(kept, itself, nearest(cosine(view.x), kept))
        return merge(torch.where(view.valid & kept.any(1, keepdim=True), into, -1))

    def _signal(self, view: TokenView) -> Tensor:
        """How much each token matters, (B, N) from 0 to 1."""
        found = torch.ones(view.valid.shape, device=view.x.device)
        if self.signal != "text":
            name = "cls_attention" if "cls_attention" in view.signals else "received_attention"
            found = found * _scaled(heads(view.signals[name]), view.valid)
        if self.signal != "attention":
            text = view.signals["text_embeds"]
            near = cosine(view.x, text)
            if view.text_valid is not None:
                near = near.masked_fill(~view.text_valid[:, None], -1.0)
            found = found * _scaled(near.amax(-1), view.valid)
        return found

    def flops(self, shape: Shape) -> float:
        attention = shape.heads * (2 * shape.head_dim + 1) * (self.signal != "text")
        text = 2 * shape.text * shape.d * (self.signal != "attention")
        pairs = 2 * shape.n * shape.d * ((self.selector != "top") + (self.merger == "nearest"))
        volume = 2 * shape.k**2 * (self.selector == "volume")
        return float(shape.n) * (attention + text + pairs + volume)


def _scaled(values: Tensor, valid: Tensor) -> Tensor:
    """Scale each row's valid values to 0..1, (B, N); equal ones are 1, padding is 0."""
    if not values.shape[1]:
        return values
    low = values.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    high = values.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
    wide = high > low
    scaled = (values - low) / torch.where(wide, high - low, 1.0)
    return torch.where(wide, scaled, 1.0).masked_fill(~valid, 0.0)
