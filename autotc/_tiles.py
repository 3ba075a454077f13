"""From tiles to views: what the tower says by (tile, patch) is picked for each token of a view.

Behind the tower the engine sees views only (`autotc._views`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autotc._views import View
from autotc.reducer import axes

if TYPE_CHECKING:
    from autotc._tower import TowerRun


def in_views(run: TowerRun, views: Sequence[View]) -> TowerRun:
    """Return a call of the tower as the language model's side sees it: one row a view, newlines with zeros.

    Args:
        run: after the tower's call, nothing cut.
        views: of all images, in the order of the prompts.
    """
    most = max(len(view.patch) for view in views)
    device = run.rows.source.device
    tile = torch.stack([_padded(view.tile, most, 0) for view in views]).to(device)
    patch = torch.stack([_padded(view.patch, most, -1) for view in views]).to(device)
    signals = {name: picked(name, values, tile, patch) for name, values in run.signals.items()}
    return replace(
        run, grids=[view.grid for view in views], groups=[view.group for view in views], signals=signals
    )


def picked(name: str, values: Tensor, tile: Tensor, patch: Tensor) -> Tensor:
    """Return a signal of the tower's images for tokens (I, N) of views, along each of its token axes.

    Between tokens of different tiles, and of newline embeddings, there is nothing: zero.
    """
    real, patch = patch >= 0, patch.clamp_min(0)
    tokens = [axis for axis, label in enumerate(axes(name)) if label == "N"]
    if not tokens:
        return values[tile[:, 0]]
    first = values.movedim(tokens[0], 1)[tile, patch]  # (I, N, ...)
    if len(tokens) == 1:
        shape = (*real.shape, *(1 for _ in first.shape[2:]))
        return (first * real.view(shape)).movedim(1, tokens[0])
    found = first.gather(2, patch[:, None].expand(-1, patch.shape[1], -1))
    together = (tile[:, :, None] == tile[:, None]) & real[:, :, None] & real[:, None]
    return found * together


def _padded(values: Tensor, length: int, filler: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)), value=filler)
