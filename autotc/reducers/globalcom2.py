"""GlobalCom2: the thumbnail says how much each crop may keep, and has a say in what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.crops import crop_cells, pairs
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import heads, top_mask


def crop_ratios(thumbnail: Tensor, tiles: tuple[int, int], ratio: float, temperature: float) -> Tensor:
    """Return (tiles,) float32, the share of its tokens that each crop keeps, row by row.

    Args:
        thumbnail: (h, w) scores of the base view.
        tiles: (rows, columns) of crops; the thumbnail is cut likewise, what is left over goes to the last ones.
        ratio: the share where all crops matter alike.
        temperature: of the softmax over the crops' summed scores.
    """
    h, w = thumbnail.shape
    y = (torch.arange(h, device=thumbnail.device) // max(h // tiles[0], 1)).clamp_max(tiles[0] - 1)
    x = (torch.arange(w, device=thumbnail.device) // max(w // tiles[1], 1)).clamp_max(tiles[1] - 1)
    cell = (y[:, None] * tiles[1] + x).flatten()
    sums = thumbnail.new_zeros(tiles[0] * tiles[1]).index_add_(0, cell, thumbnail.flatten())
    weight = ((sums - sums.max()) / temperature).exp()
    weight = weight / (weight.sum() + 1e-8)
    return (ratio * (1 + weight - weight.mean())).clamp_max(1)


def crop_scores(scores: Tensor, cells: Tensor, thumbnail: Tensor) -> Tensor:
    """Return (h, w), a crop's own scores plus the thumbnail's at the same place, each of length 1 in a crop.

    Args:
        scores: (h, w) of the map of crops.
        cells: (h, w) int64, the crop of each place.
        thumbnail: (h', w') scores of the base view.
    """
    seen = torch.nn.functional.interpolate(
        thumbnail[None, None], tuple(scores.shape), mode="bilinear", align_corners=False
    )[0, 0]
    return _unit(scores, cells) + _unit(seen, cells)


def _unit(values: Tensor, cells: Tensor) -> Tensor:
    squares = values.new_zeros(int(cells.max()) + 1).index_add_(0, cells.flatten(), values.flatten().square())
    return values / squares.sqrt().clamp_min(1e-12)[cells]


@dataclass(frozen=True)
class GlobalCom2(Reducer):
    """Keep the tokens of highest CLS logit; in crops, weighed by what the thumbnail finds at their place.

    Crops that show more of what the thumbnail attends to keep more. An image that is one view keeps its highest
    logits.

    Source: Compression with Global Guidance: Towards Training-free High-Resolution MLLMs Acceleration, arXiv
        2501.05179.
    Differs: newline embeddings are kept first, as theirs, but count in the budget of the crops, and none is
        favoured where they would take more than half of it. What rounding down leaves goes to the highest
        scores left (`fill`), what is too much comes off the lowest. Tokens stay in the image's order. Padding
        and its newlines take no part. A tower without a CLS row is read by the log of received attention. Ties
        go to the lowest index.
    Cost: one attention row, 2 N D, and sorts; with received attention 2 N^2 D.
    """

    name: ClassVar[str] = "globalcom2"
    title: ClassVar[str] = "GlobalCom2"
    source: ClassVar[Source] = Source(
        "Compression with Global Guidance: Towards Training-free High-Resolution MLLMs Acceleration",
        "2501.05179",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("final_cls_logits",)
    instead: ClassVar[Mapping[str, str]] = {"final_cls_logits": "received_attention"}
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "globalcom2",
            lambda anatomy: (PresetStage("projector", 0.25),),
            "compact",
            "a quarter of the tokens",
        ),
    )

    temperature: float = param(10.0, low=1.0, high=100.0, log=True, help="Of the softmax over crops.")
    newlines: bool = param(True, help="Keep the newline embeddings first.")
    fill: bool = param(True, search=False, help="Give what rounding leaves to the best of the other tokens.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        known = "final_cls_logits" in view.signals
        score = heads(view.signals["final_cls_logits" if known else "received_attention"])
        score = score if known else score.clamp_min(torch.finfo(score.dtype).tiny).log()
        count = budgets(view, budget)
        keep = top_mask(score, count, view.valid)
        for base, crops in pairs(view.group, view.grids):
            if view.grids[crops][2] > 1:  # else a lone newline
                m = int(view.counts[crops])
                keep[crops, :m] = self._crops(
                    _spread(score, view, base),
                    _spread(score, view, crops),
                    view.source[crops, :m],
                    int(count[crops]),
                )
        return select(keep)

    def _crops(self, thumbnail: Tensor, scores: Tensor, source: Tensor, count: int) -> Tensor:
        """Return (M,) bool, which of the map's tokens at places `source` are kept."""
        h, w = scores.shape
        cells, tiles = crop_cells((1, h, w), (thumbnail.shape[0], thumbnail.shape[1]))
        cells = cells.to(scores.device).view(h, w)
        score = scores.new_full((h, w), -torch.inf)
        score[:, :-1] = crop_scores(scores[:, :-1], cells[:, :-1], thumbnail)
        cell, score = cells.flatten()[source], score.flatten()[source]
        ends = cell < 0
        first = int(ends.sum()) if self.newlines and 2 * int(ends.sum()) <= count else 0
        room = count - first
        patches = int((~ends).sum())
        ratios = crop_ratios(thumbnail, tiles, min(room / max(patches, 1), 1.0), self.temperature)
        chosen = torch.zeros_like(ends)[None]
        for tile, ratio in enumerate(ratios.tolist()):
            mine = (cell == tile)[None]
            chosen |= top_mask(score[None], int(int(mine.sum()) * ratio), mine)
        chosen = top_mask(score[None], room, chosen)
        if self.fill:
            others = ~chosen & ~ends if first else ~chosen
            chosen |= top_mask(score[None], room - int(chosen.sum()), others)
        return chosen[0] | ends if first else chosen[0]

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n * shape.heads * shape.head_dim + shape.n * shape.heads


def _spread(score: Tensor, view: TokenView, row: int) -> Tensor:
    """Return (h, w) the scores of a row at their original places, 0 where there is no token."""
    t, h, w = view.grids[row]
    out = score.new_zeros(t * h * w)
    out[view.source[row, view.valid[row]]] = score[row, view.valid[row]]
    return out.view(t * h, w)
