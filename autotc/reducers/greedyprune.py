"""GreedyPrune: what the text is about, less what has been chosen already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, mean_rows, normalised, order_mask, per_row


@dataclass(frozen=True)
class GreedyPrune(Reducer):
    """Pick the token closest to the text again and again, less its likeness to those already picked.

    Signals: cosines of visual states with text states (relevance) and with one another (likeness); selector:
    greedy.

    Source: GreedyPrune: Retenting Critical Visual Token Set for Large Vision Language Models,
        arXiv 2506.13166.
    Differs: a reconstruction from the paper's description, no code was published: the mean over text tokens,
        the weight of likeness, the layer and the count of the preset are choices made here. Equal gains go to
        the lowest index.
    Cost: cosines with the text and of all tokens, and a pass over the tokens a pick.
    """

    name: ClassVar[str] = "greedyprune"
    title: ClassVar[str] = "GreedyPrune"
    source: ClassVar[Source] = Source(
        "GreedyPrune: Retenting Critical Visual Token Set for Large Vision Language Models", "2506.13166"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("text_hidden",)
    query_aware: ClassVar[bool] = True
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "reconstruction"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "greedyprune",
            lambda anatomy: (PresetStage("decoder", 0.5, (2, anatomy.decoder.layers)),),
            note="half of the tokens leave before layer 2",
        ),
    )

    likeness: float = param(0.5, low=0.0, high=4.0, help="Weight of likeness against relevance.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        wanted = budgets(view, budget)
        text = normalised(view.signals["text_hidden"])
        words = text.new_ones(text.shape[:2]).bool() if view.text_valid is None else view.text_valid
        about = mean_rows(text, words)
        relevance = (normalised(view.x) @ about[..., None])[..., 0]
        order = trade(relevance, cosine(view.x), wanted, view.valid, self.likeness)
        return select(order_mask(order, wanted, view.valid.shape[1]) & view.valid)

    def flops(self, shape: Shape) -> float:
        return (
            2 * shape.n * shape.d * (shape.n + 1) + 3 * (shape.n + shape.text) * shape.d + shape.k * shape.n
        )


def trade(relevance: Tensor, alike: Tensor, count: int | Tensor, valid: Tensor, weight: float) -> Tensor:
    """Pick tokens greedily by relevance less the weighted likeness to the most similar pick.

    Args:
        relevance: (B, N).
        alike: (B, N, N).
        count: an int or (B,).
        valid: (B, N) bool.
        weight: of the likeness.

    Returns:
        (B, K) int64 in the order of picks, K the largest count; entries past a row's count mean nothing.
    """
    count, alike = per_row(count, relevance), alike.nan_to_num()
    picks = valid.new_zeros(len(valid), int(count.max()) if len(valid) else 0, dtype=torch.long)
    closest = torch.full_like(relevance, -torch.inf)
    open_ = valid.clone()
    for step in range(picks.shape[1]):
        gain = relevance if step == 0 else relevance - weight * closest
        gain = gain.nan_to_num(torch.finfo(gain.dtype).min)
        picks[:, step] = best = gain.masked_fill(~open_, -torch.inf).argmax(1)
        open_.scatter_(1, best[:, None], False)
        closest = torch.maximum(
            closest, alike.gather(1, best[:, None, None].expand(-1, 1, alike.shape[2]))[:, 0]
        )
    return picks
