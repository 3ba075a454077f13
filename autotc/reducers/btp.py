"""Balanced Token Pruning: early cuts keep variety, late ones keep what is attended to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, ranking

STAGES = (
    # layer, count of 576, attention, spread, diversity, grid
    (3, 288, 0.3, 3.7, 0.3, 0.5),
    (6, 144, 0.9, 1.5, 0.1, 0.0),
    (14, 48, 1.0, 1.2, 0.0, 0.0),
    (22, 0, 1.0, 1.2, 0.0, 0.0),
)


def _stage(layer: int, count: int, *shares: float) -> PresetStage:
    params = tuple(zip(("attention", "spread", "diversity", "grid"), shares, strict=True))
    return PresetStage("decoder", count / 576, (layer, 32), params)


@dataclass(frozen=True)
class Btp(Reducer):
    """Unite attended, diverse and evenly spread tokens, and fill up with the most different ones.

    Signals: last-query attention row (early positions first, against its bias to late ones), cosines of
    hidden states, the grid; selectors: top-k, max-min greedy.

    Source: Balanced Token Pruning: Accelerating Vision Language Models Beyond Local Optimization,
        arXiv 2505.22038.
    Differs: shares are parameters of one rule (the authors' code has three rules); a union larger than the
        budget keeps attended tokens first, then diverse ones; duplicates never count (in their second stage
        they can); depths are the published ones, the calibration that found them is left out.
    Cost: an attention row and the cosines of all tokens; the greedy loop runs on the CPU.
    """

    name: ClassVar[str] = "btp"
    title: ClassVar[str] = "Balanced Token Pruning"
    source: ClassVar[Source] = Source(
        "Balanced Token Pruning: Accelerating Vision Language Models Beyond Local Optimization", "2505.22038"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("last_attention",)
    query_aware: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "btp",
            lambda anatomy: tuple(_stage(*stage) for stage in STAGES),
            note="288/144/48/0 of 576 tokens from layers 3/6/14/22 of 32, from variety to attention",
        ),
    )

    attention: float = param(0.9, low=0.0, high=1.0, help="Share of the budget that goes by attention.")
    spread: float = param(1.5, low=1.0, high=5.0, help="Attended tokens among which early positions win.")
    diversity: float = param(0.1, low=0.0, high=1.0, help="Share of the budget that goes by difference.")
    grid: float = param(0.0, low=0.0, high=1.0, help="Share of the budget that is an even grid.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        keep = torch.zeros_like(view.valid)
        seen = heads(view.signals["last_attention"])
        pairs = zip(view.counts.tolist(), budgets(view, budget).tolist(), strict=True)
        for row, (n, k) in enumerate(pairs):
            if k == 0:
                continue
            apart = (1 - cosine(view.x[row : row + 1, :n])[0]).cpu().numpy()
            wanted = int(self.attention * k)
            chosen = attended(seen[row, :n], k, wanted, int(self.spread * wanted))
            chosen += farthest_from([], apart, int(self.diversity * k))
            at = view.source[row, :n] % (view.grids[row][1] * view.grids[row][2])
            chosen += evenly(at, view.grids[row][2], int(self.grid * k))
            chosen = list(dict.fromkeys(chosen))[:k]
            keep[row, farthest_from(chosen, apart, k - len(chosen))] = True
        return select(keep)

    def flops(self, shape: Shape) -> float:
        row = shape.n * shape.heads * (2 * shape.head_dim + 1)
        return row + 2 * shape.n**2 * shape.d + shape.k * shape.n


def attended(seen: Tensor, k: int, count: int, pool: int) -> list[int]:
    """Return `count` of the `pool` most attended tokens, those at positions below k first.

    Args:
        seen: (N,) attention.
    """
    best = ranking(seen[None])[0, :pool].tolist()
    return ([i for i in best if i < k] + [i for i in best if i >= k])[:count]


def farthest_from(chosen: list[int], apart: NDArray[np.float32], count: int) -> list[int]:
    """Return `chosen` and `count` more tokens, each the one whose nearest chosen token is farthest.

    Without any chosen the first is the token whose nearest neighbour is farthest. Ties go to the lowest
    index.

    Args:
        apart: (N, N) distances.
    """
    chosen, apart = list(chosen), np.nan_to_num(apart)
    if count <= 0:
        return chosen
    if not chosen:
        alone = np.where(np.eye(len(apart), dtype=bool), np.inf, apart)
        chosen, count = [int(alone.min(0).argmax())], count - 1
    least = apart[chosen].min(0)
    least[chosen] = -np.inf
    for _ in range(min(count, len(apart) - len(chosen))):
        best = int(least.argmax())
        chosen.append(best)
        least = np.minimum(least, apart[best])
        least[best] = -np.inf
    return chosen


def evenly(at: Tensor, columns: int, count: int) -> list[int]:
    """Return `count` tokens far apart on the grid (Manhattan), the first one first.

    Args:
        at: (N,) places in the grid, row by row.
        columns: of the grid.
    """
    if count <= 0:
        return []
    places = torch.stack((at // columns, at % columns), 1).cpu().numpy()
    apart = np.abs(places[:, None] - places[None]).sum(-1).astype(np.float32)
    return farthest_from([0], apart, count - 1)
