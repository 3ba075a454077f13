"""AIM's merging: neighbours in the sequence are averaged by halves before the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from autotc import kernels
from autotc.assignment import Assignment, merge, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets


@dataclass(frozen=True)
class Aim(Reducer):
    """Average tokens of even place into their most similar token of odd place, half of them a round.

    Signal: cosines of projected features; merger: bipartite rounds, plain mean of a round's members.

    Source: AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning, arXiv 2412.03248.
    Differs: only the merging before the language model (the pruning inside it needs every layer's whole
        attention map); every round but the last halves the tokens and the last one meets the budget; tokens
        stay in their order (the authors put the unmerged ones in front).
    Cost: cosines of half the tokens with the other half, in every round.
    """

    name: ClassVar[str] = "aim"
    title: ClassVar[str] = "AIM (merging)"
    source: ClassVar[Source] = Source(
        "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning", "2412.03248"
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "aim",
            lambda anatomy: (PresetStage("projector", 0.125),),
            note="three rounds of merging leave an eighth of the tokens",
        ),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        wanted = budgets(view, budget)
        done = select(view.valid & (wanted > 0)[:, None])
        while bool((away := (done.kept - wanted).clamp_min(0)).any()):
            # a round sends away at most half of the tokens, so the loop ends
            target = kernels.bipartite_match(done.apply(view.x), away, done.valid)
            done = done.compose(merge(torch.where(done.valid, target, -1), normalise="count"))
        return done

    def flops(self, shape: Shape) -> float:
        total, n = 0.0, shape.n
        while n > shape.k:
            total += n * n / 2 * shape.d + n * shape.d
            n = max(n - n // 2, shape.k)
        return total
