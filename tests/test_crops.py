"""Base views and maps of crops."""

import torch

from autotc.crops import crop_cells, pairs


def test_crop_cells_know_padding_and_newlines() -> None:
    # two tiles of 3 x 3 beside each other; of their three rows the middle one is left, of six columns four
    cells, tiles = crop_cells((1, 1, 5), (3, 3))
    assert tiles == (1, 2) and cells.tolist() == [0, 0, 1, 1, -1]
    cells, tiles = crop_cells((1, 4, 3), (2, 2))
    assert tiles == (2, 1) and cells.view(4, 3).tolist() == [[0, 0, -1], [0, 0, -1], [1, 1, -1], [1, 1, -1]]
    assert crop_cells((1, 1, 1), (3, 3))[0].tolist() == [-1]  # a lone newline


def test_pairs_are_a_base_view_and_a_map_of_one_image() -> None:
    tile, crops = (1, 2, 2), (1, 4, 5)
    assert pairs(torch.tensor([3, 5, 5, 4]), [tile, tile, crops, crops]) == [(1, 2)]
    assert pairs(torch.tensor([2, 2, 2, 0, 0]), [tile] * 5) == []
