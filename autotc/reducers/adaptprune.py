"""AdaptPrune: attention with a prior for the centre, thinned where neighbours look alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, order_mask


@dataclass(frozen=True)
class AdaptPrune(Reducer):
    """Pick the most attended token again and again, each pick dampening near tokens with similar keys.

    Signals: last-query attention row and keys of the layer before the cut; selector: greedy soft suppression.

    Source: Multi-Cue Adaptive Visual Token Pruning for Large Vision-Language Models, arXiv 2503.08019.
    Differs: keys are those of the layer before the cut after RoPE (the authors project the state entering
        the layer again, without its norm and without RoPE); no token is picked twice; the image's grid may
        have any shape (theirs is 24 x 24).
    Cost: an attention row, and the cosines of all keys.
    """

    name: ClassVar[str] = "adaptprune"
    title: ClassVar[str] = "AdaptPrune"
    source: ClassVar[Source] = Source(
        "Multi-Cue Adaptive Visual Token Pruning for Large Vision-Language Models", "2503.08019"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("last_attention", "keys")
    query_aware: ClassVar[bool] = True
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "adaptprune",
            lambda anatomy: (PresetStage("decoder", 57 / 576, (2, anatomy.decoder.layers)),),
            note="57 of 576 tokens go on from layer 2",
        ),
    )

    center: float = param(12.0, low=1.0, high=100.0, help="Width of the prior for the centre, in tokens.")
    reach: float = param(5.0, low=0.0, high=30.0, help="Distance to which a pick dampens others, in tokens.")
    distance: float = param(1.5, low=0.1, high=10.0, help="Width of the dampening, in tokens.")
    similarity: float = param(0.05, low=0.01, high=1.0, help="Width of the dampening, in 1 - cosine.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        wanted = budgets(view, budget)
        prior, apart = zip(*map(self._places, view.source, view.grids), strict=True)
        keys = view.signals["keys"].transpose(1, 2).flatten(2)
        near = torch.stack(apart)
        alike = (-(1 - cosine(keys)).square() / (2 * self.similarity**2)).exp()
        damp = 1 - (-near.square() / (2 * self.distance**2)).exp() * alike
        damp = torch.where(near <= self.reach, damp, 1.0)
        scores = heads(view.signals["last_attention"]) * torch.stack(prior)
        order = suppress(scores, damp, int(wanted.max()), view.valid)
        return select(order_mask(order, wanted, view.valid.shape[1]) & view.valid)

    def _places(self, source: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Return the prior (N,) and the distances (N, N) of tokens by their original index."""
        _, h, w = grid
        row, column, frame = source // w % h, source % w, source // (h * w)
        prior = centre(h, w, self.center).to(source.device)[row, column]
        at = torch.stack((row, column), 1).float()
        away = (at[:, None] - at[None]).square().sum(-1).sqrt()
        return prior, away.masked_fill(frame[:, None] != frame[None], torch.inf)

    def flops(self, shape: Shape) -> float:
        row = shape.n * shape.heads * (2 * shape.head_dim + 1)
        return row + 2 * shape.n**2 * shape.heads * shape.head_dim + shape.k * shape.n


def centre(h: int, w: int, sigma: float) -> Tensor:
    """Return the prior (h, w): a Gaussian over coordinates from -side / 2 to side / 2, at most 1."""
    rows, columns = (
        torch.linspace(-side / 2, side / 2, side) if side > 1 else torch.zeros(1) for side in (h, w)
    )
    distance = rows[:, None].square() + columns[None].square()
    return (-(distance - distance.min()) / (2 * sigma**2)).exp()


def suppress(scores: Tensor, damp: Tensor, count: int, valid: Tensor) -> Tensor:
    """Pick the best token `count` times; each pick multiplies the scores.

    Args:
        scores: (B, N).
        damp: (B, N, N), the factors that a pick of token i puts on all others, in its row.
        count: picks; past a row's valid tokens they mean nothing.
        valid: (B, N) bool.

    Returns:
        (B, count) int64 in the order of picks, ties to the lowest index.
    """
    scores, open_ = scores.clone(), valid.clone()
    picks = []
    for _ in range(count):
        best = scores.masked_fill(~open_, -torch.inf).argmax(1)
        picks.append(best)
        open_.scatter_(1, best[:, None], False)
        scores *= damp.gather(1, best[:, None, None].expand(-1, 1, damp.shape[2]))[:, 0]
    return (
        torch.stack(picks, 1)
        if picks
        else torch.zeros(len(scores), 0, dtype=torch.long, device=scores.device)
    )
