"""Images of any resolution: the tokens of each view against the stock packing, and against the authors' masks."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from autotc._tiles import picked
from autotc._views import crop_view, image_views, tile_view
from autotc.adapter import anatomy
from autotc.anatomy import crop_map
from tests.reducers.golden_cases import Case, cases

FAMILIES = {"llava-next": LlavaNextModel, "llava-onevision": LlavaOnevisionModel}


def sizes(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Return (width, height) of small, large, thin and square images."""
    draw = random.Random(seed)
    free = [(draw.randint(20, 2600), draw.randint(20, 2600)) for _ in range(count)]
    return [(672, 672), (336, 336), (384, 384), (1, 1), (3000, 10), (10, 3000), *free]


def stock(alias: str, features: list[Tensor], image: tuple[int, int], newline: Tensor) -> Tensor:
    """Return what the stock model packs, given the features (tiles, patches, D) of one image."""
    rule, config = anatomy(alias).image, SimpleNamespace()
    config.vision_config = SimpleNamespace(image_size=rule.fixed, patch_size=rule.patch)
    config.image_grid_pinpoints = [list(p) for p in rule.pinpoints]
    more: Any = {"vision_feature_select_strategy": "default"} if alias == "llava-next" else {}
    model: Any = SimpleNamespace(config=config)
    pack = FAMILIES[alias].pack_image_features
    (packed,), (count,) = pack(model, features, [(image[1], image[0])], image_newline=newline, **more)
    assert count == len(packed)
    return packed


@pytest.mark.parametrize("alias", FAMILIES)
def test_tokens_are_those_of_the_stock_packing(alias: str) -> None:
    rule, scaled = anatomy(alias).image, 0
    for image in sizes(40):
        seen, crops = rule.views(*image), rule.crops(*image)
        assert crops is not None and crops.tiles[0] * crops.tiles[1] == seen.tiles - 1
        patches = seen.tile[0] * seen.tile[1]
        rows, columns = (side * crops.side for side in crops.tiles)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        where = torch.stack([y, x], -1).double()  # a ramp, which bilinear scaling keeps
        tiles = where.unflatten(0, (-1, crops.side)).unflatten(2, (-1, crops.side)).transpose(1, 2)
        base = torch.stack([torch.arange(patches).double() + 1e6, torch.zeros(patches)], -1)
        features = torch.cat([base[None], tiles.reshape(-1, patches, 2)])
        packed = stock(alias, [features], image, torch.full((2,), -7.0, dtype=torch.double))
        assert len(packed) == seen.tokens
        views = image_views(rule, *image, 1, 0, 0)
        assert [view.grid[1:] for view in views] == list(seen.grids)
        tile, patch = (torch.cat([getattr(v, name) for v in views]) for name in ("tile", "patch"))
        mine = torch.where((patch < 0)[:, None], -7.0, features[tile, patch])
        apart = (packed - mine).abs().amax(0)
        if crops.inner == (crops.rows, crops.columns):
            assert torch.equal(packed, mine)
        else:
            scaled += 1
            assert (apart <= 0.5 + 1e-9).all(), "a token belongs to the patch under its centre"
    assert scaled == 0 if alias == "llava-next" else 5 < scaled < 46


def test_several_images_of_a_prompt_are_one_tile_each() -> None:
    seen = anatomy("llava-onevision").image.views(1000, 700, images=2)
    assert (seen.grids, seen.tiles) == (((27, 27), (1, 1)), 1)
    base = torch.arange(729.0)[None, :, None]
    packed = stock("llava-onevision", [base], (1000, 700), torch.tensor([-7.0]))
    views = image_views(anatomy("llava-onevision").image, 1000, 700, 2, 0, 0)
    patch = torch.cat([view.patch for view in views])
    assert torch.equal(packed[:, 0], torch.where(patch < 0, -7, patch).float())
    assert anatomy("llava-next").image.views(1000, 700, images=2).tiles > 1


def test_published_numbers_of_tokens() -> None:
    """LLaVA-NeXT's largest picture: five tiles of 576 and a newline for each of 48 rows."""
    assert anatomy("llava-next").visual_tokens(672, 672) == 5 * 576 + 48
    assert anatomy("llava-onevision").visual_tokens(384, 384) == 729 + 27 * 28


@pytest.mark.parametrize("case", cases("vision", "anyres_pack"))
def test_anyres_pack_parity(case: Case) -> None:
    """The authors pack masks of tiles: what is kept of each view, newlines always.

    `spatial_unpad` is what the stock models do. `spatial` leaves the padding in and newlines out, which no stock
    model does; it is the same map of an image that fills its crops, without its last column.
    """
    params = case.params
    side, tiles = params["side"], (params["grid_h"], params["grid_w"])
    width, height = params["original_size_wh"]
    unpadded = params["mode"] == "spatial_unpad"
    if unpadded:
        height, width = _truncated(side, tiles, height, width)
    else:
        assert params["mode"] == "spatial"
        height, width = tiles
    view = crop_view(crop_map(width, height, side, tiles), 1, 0)
    base = tile_view((side, side), 0, 0)
    tile, patch = torch.cat([base.tile, view.tile]), torch.cat([base.patch, view.patch])
    newline = patch < 0
    kept = torch.where(newline, torch.tensor(unpadded), case["in_keep_mask"][tile, patch])
    ids = torch.where(newline, -1, tile * side**2 + patch)[kept]
    np.testing.assert_array_equal(ids.numpy(), case["out_token_ids"].numpy())


def _truncated(side: int, tiles: tuple[int, int], height: int, width: int) -> tuple[float, float]:
    """Return the size for which the stock models' padding is that of the authors, who do not round before they
    truncate: where rounding errors put a whole number below itself, theirs is one smaller.
    """
    rows, columns = side * tiles[0], side * tiles[1]
    if width / height > columns / rows:
        inner = height * (columns / width)
        return (height * (1 - 1e-6), width) if int(inner) != int(round(inner, 7)) else (height, width)
    inner = width * (rows / height)
    return (height, width * (1 - 1e-6)) if int(inner) != int(round(inner, 7)) else (height, width)


def test_signals_of_tiles_are_picked_for_each_token() -> None:
    """Two tiles of 2 x 2 patches next to one another: base, then a map of 2 x 2 with a newline behind each row."""
    heads = torch.rand(3, 5, 4)
    hidden = torch.rand(3, 4, 7)
    between = torch.rand(3, 4, 4)
    base = tile_view((2, 2), 0, 0)
    crops = crop_view(crop_map(2, 1, 2, (1, 2)), 1, 0)
    assert crops.grid == (1, 2, 5)
    tile, patch = (torch.stack([torch.nn.functional.pad(getattr(base, n), (0, 6), value=v), getattr(crops, n)])
                   for n, v in (("tile", 0), ("patch", -1)))  # fmt: skip
    expected = [(1, 0), (1, 1), (2, 0), (2, 1), None, (1, 2), (1, 3), (2, 2), (2, 3), None]
    found = picked("cls_attention", heads, tile, patch)
    assert found.shape == (2, 5, 10) and torch.equal(found[0, :, :4], heads[0]) and not found[0, :, 4:].any()
    rows = picked("features", hidden, tile, patch)
    square = picked("vision_attention", between, tile, patch)
    for n, place in enumerate(expected):
        assert torch.equal(found[1, :, n], heads[place[0], :, place[1]] if place else torch.zeros(5))
        assert torch.equal(rows[1, n], hidden[place] if place else torch.zeros(7))
        for m, other in enumerate(expected):
            together = place is not None and other is not None and place[0] == other[0]
            assert square[1, n, m] == (between[place[0], place[1], other[1]] if together else 0)
