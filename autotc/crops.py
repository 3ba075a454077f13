"""Models of any resolution show an image twice: a base view, and the map of its crops. Here reducers find both."""

from __future__ import annotations

import torch
from torch import Tensor


def pairs(group: Tensor, grids: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Return (base view, map of the crops) of each image that is shown by both.

    Args:
        group: (B,) the number of each row's image.
        grids: (t, h, w) of each row; two rows of one grid are tiles, not a base view and a map.
    """
    found = [(group == number).nonzero()[:, 0].tolist() for number in group.unique()]
    return [(rows[0], rows[1]) for rows in found if len(rows) == 2 and grids[rows[0]] != grids[rows[1]]]


def crop_cells(grid: tuple[int, int, int], tile: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Return which tile each place of a map of crops shows.

    A map is what is left of whole tiles when the padding is off, as much on either side; its last column are
    newline embeddings.

    Args:
        grid: (1, h, w) of the map, newlines included.
        tile: (rows, columns) of a tile.

    Returns:
        (N,) int64, tiles counted row by row, -1 for a newline; and the (rows, columns) of tiles.
    """
    high, wide = grid[1], grid[2] - 1
    rows, columns = -(-high // tile[0]), -(-wide // tile[1])
    y = (torch.arange(high) + (rows * tile[0] - high) // 2) // tile[0]
    x = (torch.arange(wide) + (columns * tile[1] - wide) // 2) // tile[1]
    cells = torch.nn.functional.pad(y[:, None] * columns + x, (0, 1), value=-1)
    return cells.flatten(), (rows, columns)
