"""G-Prune: let information flow along a graph of similar tokens and keep where it gathers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, keep_top

CLOSED = -5000.0  # logit of an edge that is not there; finite, so that a token without edges spreads evenly


@dataclass(frozen=True)
class GPrune(Reducer):
    """Keep the tokens in which most information gathers, per edge, after a few steps along similar tokens.

    Source: What Kind of Visual Tokens Do We Need? Training-free Visual Token Pruning for Multi-modal Large
        Language Models from the Perspective of Graph (G-Prune), arXiv 2501.02268.
    Differs: powers of the flow matrix are replaced by as many products with a vector (the same numbers).
        Parts of a tiled image are not treated apart: each image is one graph. Ties go to the lowest index.
    Cost: 2 N^2 D for the cosines and 2 N^2 a step.
    """

    name: ClassVar[str] = "gprune"
    title: ClassVar[str] = "G-Prune"
    source: ClassVar[Source] = Source(
        "What Kind of Visual Tokens Do We Need? Training-free Visual Token Pruning for Multi-modal Large "
        "Language Models from the Perspective of Graph",
        "2501.02268",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("gprune", lambda anatomy: (PresetStage("projector", 0.5),), "compact", "half of the tokens"),
    )

    similarity: float = param(0.5, low=0.05, high=0.95, help="Least cosine of two tokens with an edge.")
    temperature: float = param(0.03, low=0.01, high=1.0, log=True, help="Softmax over a token's edges.")
    iterations: int = param(5, low=1, high=10, help="Steps that information takes.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        return keep_top(self.score(view.x, view.valid), budgets(view, budget), view.valid)

    def score(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return what gathers in each token of x (B, N, D), divided by its number of edges, as (B, N)."""
        alike = cosine(x)
        logits = torch.where(alike >= self.similarity, alike / self.temperature, CLOSED)
        flow = logits.masked_fill(~valid[:, None, :], -torch.inf).softmax(-1)
        held = x.float().norm(dim=-1).masked_fill(~valid, 0)[:, None]
        for _ in range(self.iterations):
            held = held @ flow
        gathered: Tensor = held[:, 0] / (flow > 0).sum(-1)
        return gathered

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n**2 * (shape.d + self.iterations)
