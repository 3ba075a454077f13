"""Uniform selection: an even lattice over the image, whatever it shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Source, TokenView, budgets


@dataclass(frozen=True)
class Uniform(Reducer):
    """Keep an even lattice of the token grid; where tokens have left already, the nearest ones that stayed.

    Source: baseline; papers compare with it as spatial or uniform sampling.
    Differs: nothing to differ from.
    Cost: none that counts.
    """

    name: ClassVar[str] = "uniform"
    title: ClassVar[str] = "Even grid"
    source: ClassVar[Source] = Source("Baseline: an even lattice of tokens")
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction", "own"]] = "own"
    sites: ClassVar[tuple[str, ...]] = ("vision", "projector", "decoder")
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "uniform",
            lambda anatomy: (PresetStage("projector", 1 / 3),),
            note="an even lattice of tokens enters the language model",
        ),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        keep = torch.zeros(view.valid.shape, dtype=torch.bool)
        wanted, counts = budgets(view, budget).tolist(), view.counts.tolist()
        source = view.source.cpu()
        for row, (grid, count, real) in enumerate(zip(view.grids, wanted, counts, strict=True)):
            keep[row, _nearest(source[row, :real], lattice(*grid, count), grid[1:])] = True
        return select(keep.to(view.x.device))


@lru_cache(maxsize=1024)
def lattice(t: int, h: int, w: int, k: int) -> tuple[tuple[int, int, int], ...]:
    """Return k places (frame, row, column), evenly spread over a t x h x w grid.

    The frames share k evenly, a frame's k fills as many lines as keep the cells square, and the lines share
    it evenly again; places are distinct as long as k is at most t * h * w.
    """
    places = []
    for frame in range(t):
        share = (frame + 1) * k // t - frame * k // t
        if share == 0:
            continue
        lines = min(h, share, max(1, -(-share // w), round((share * h / w) ** 0.5)))
        for line in range(lines):
            points = (line + 1) * share // lines - line * share // lines
            row = (2 * line + 1) * h // (2 * lines)
            places += [(frame, row, (2 * point + 1) * w // (2 * points)) for point in range(points)]
    return tuple(places)


def _nearest(source: Tensor, places: tuple[tuple[int, int, int], ...], plane: tuple[int, int]) -> Tensor:
    """Return the token nearest to each place in turn, without repetition.

    Args:
        source: (N,) original indices of the tokens that are there, ascending.
        places: at most N of them.
        plane: (rows, columns) of a frame.
    """
    h, w = plane
    if not places:
        return source[:0]
    wanted = torch.tensor(places)
    index = (wanted[:, 0] * h + wanted[:, 1]) * w + wanted[:, 2]
    found = torch.searchsorted(source, index).clamp_max(len(source) - 1)
    if torch.equal(source[found], index):
        return found
    here = torch.stack((source // (h * w), source % (h * w) // w, source % w), 1).float()
    here[:, 0] *= h + w  # another frame is farther than any place of this one
    wanted = wanted.float()
    wanted[:, 0] *= h + w
    distance = torch.cdist(wanted, here, compute_mode="donot_use_mm_for_euclid_dist")
    chosen: list[int] = []
    for row in distance:
        row[chosen] = torch.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen)
