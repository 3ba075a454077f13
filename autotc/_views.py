"""Views: the rows of the language model's layout where an image becomes several tiles of the tower.

A model of one resolution shows the language model the tower's images as they are. A model of any resolution cuts an
image into tiles and shows a base view and a map of all crops, with newline embeddings that no tile gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autotc.anatomy import CropMap, ImageRule


@dataclass(frozen=True)
class View:
    """One view of an image, N tokens in the order of the prompt.

    Args:
        grid: (t, h, w), N = t x h x w.
        group: the number of the image.
        tile: (N,) int64, the tower's image that a token comes from.
        patch: (N,) int64, its token there; -1: none, a newline embedding.
    """

    grid: tuple[int, int, int]
    group: int
    tile: Tensor
    patch: Tensor


def tile_view(grid: tuple[int, int], tile: int, group: int) -> View:
    """Return the view that is one whole tile."""
    rows, columns = grid
    patch = torch.arange(rows * columns)
    return View((1, rows, columns), group, torch.full_like(patch, tile), patch)


def newline_view(tile: int, group: int) -> View:
    """Return the view of a lone newline embedding behind a tile."""
    one = torch.ones(1, dtype=torch.long)
    return View((1, 1, 1), group, one * tile, -one)


def image_views(rule: ImageRule, width: int, height: int, images: int, tile: int, group: int) -> list[View]:
    """Return the views of an image of width x height pixels, one of `images` in its prompt.

    The base view, then the map of its crops, or a lone newline embedding where it has no crops.

    Args:
        rule: of a family with such views.
        tile: the tower's image that is its base tile; the crops follow.
        group: the number of the image.
    """
    base = tile_view(rule.views(width, height, images).tile, tile, group)
    crops = rule.crops(width, height, images)
    if crops is None:
        return [base, newline_view(tile, group)]
    return [base, crop_view(crops, tile + 1, group)] if crops.rows else [base]


def crop_view(crops: CropMap, first: int, group: int) -> View:
    """Return the view of an image's crops: rows of the map, each with a newline embedding at its end.

    Args:
        crops: the map. Where it is scaled down, a token belongs to the patch under its centre.
        first: the tower's image that is the first crop.
        group: the number of the image.
    """
    side, (high, wide) = crops.side, crops.inner
    y = crops.top + _under(crops.rows, high)[:, None]
    x = crops.left + _under(crops.columns, wide)
    tile = first + (y // side) * crops.tiles[1] + x // side
    patch = (y % side) * side + x % side
    tile = torch.nn.functional.pad(tile, (0, 1), value=first)
    patch = torch.nn.functional.pad(patch, (0, 1), value=-1)
    return View((1, crops.rows, crops.columns + 1), group, tile.flatten(), patch.flatten())


def _under(shown: int, there: int) -> Tensor:
    """Return the place among `there` under the centre of each of `shown` places."""
    return (2 * torch.arange(shown) + 1) * there // (2 * shown)
