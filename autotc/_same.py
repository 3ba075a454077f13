"""Pictures that several prompts of a batch show: the tower runs once for each of them.

Data sets ask several questions about an image. What comes out of the tower is repeated for all prompts that show it;
grids, placeholders and positions stay those of all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autotc.adapter import ModelAdapter


@dataclass(frozen=True)
class Same:
    """Which images of a call show the same picture.

    Args:
        first: the first image of each of the P pictures.
        order: the picture of each of the I images, 0..P-1.
    """

    first: list[int]
    order: list[int]

    def once(self, call: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the arguments of `get_image_features` that hold pixels, for one image a picture."""
        pixels = _of_images(call)
        only = {"pixel_values": torch.cat([pixels[i] for i in self.first])}
        if call.get("image_grid_thw") is not None:
            only["image_grid_thw"] = call["image_grid_thw"][self.first]
        return only

    def again(self, output: Any) -> Any:
        """Return what `get_image_features` gave for the pictures as if it had run for all images."""
        features = output.pooler_output
        sizes = [len(f) for f in features]
        output.pooler_output = tuple(features[i] for i in self.order)
        levels = getattr(output, "deepstack_features", None)
        if levels is not None:
            output.deepstack_features = [self._level(level, sizes) for level in levels]
        return output

    def _level(self, level: Tensor | Sequence[Tensor], sizes: Sequence[int]) -> Tensor | tuple[Tensor, ...]:
        """Repeat a level of DeepStack's, which versions of transformers give whole or by image."""
        if isinstance(level, Tensor):
            parts = level.split(list(sizes))
            return torch.cat([parts[i] for i in self.order])
        return tuple(level[i] for i in self.order)


def one_tile_an_image(adapter: ModelAdapter) -> bool:
    """Whether each image is one of the tower's."""
    return type(adapter).views is ModelAdapter.views


def same_pictures(adapter: ModelAdapter, call: Mapping[str, Any], keys: Sequence[str]) -> Same | None:
    """Return which images of a call show the same picture, None where all differ or an image is several tiles.

    Args:
        adapter: of the model.
        call: with `pixel_values`.
        keys: of each image; only images of one key are compared, by their pixels.
    """
    if not one_tile_an_image(adapter):
        return None
    pixels = _of_images(call)
    if len(pixels) != len(keys):
        return None
    first: list[int] = []
    order: list[int] = []
    known: dict[str, list[int]] = {}  # pictures of a key
    for i, key in enumerate(keys):
        mine = known.setdefault(key, [])
        picture = next((p for p in mine if torch.equal(pixels[first[p]], pixels[i])), None)
        if picture is None:
            picture = len(first)
            first.append(i)
            mine.append(picture)
        order.append(picture)
    return Same(first, order) if len(first) < len(order) else None


def _of_images(call: Mapping[str, Any]) -> Sequence[Tensor]:
    """Return the pixels of each image: rows of patches on Qwen, where a grid says how many, else (1, C, H, W)."""
    pixels: Tensor = call["pixel_values"]
    grid: Tensor | None = call.get("image_grid_thw")
    sizes = [1] * len(pixels) if grid is None else grid.prod(-1).tolist()
    return pixels.split(sizes)
