"""Tiny models of the families that cut images into tiles, and images that leave padding, newlines and small maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from autotc.anatomy import ImageRule, Views

KINDS = ("llava_next", "llava_onevision")
SIDE, PATCH = 24, 4  # a tile of 6 x 6 patches
PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
SIZES = [
    (30, 50),
    (44, 40),
    (70, 20),
    (20, 64),
]  # (height, width): 3, 5, 4 and 4 tiles, padding on either side


def build(kind: str, text: dict[str, Any], blocks: int, image: int) -> tuple[Any, Any]:
    """Return the config and the class of a tiny model."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    common = {"image_token_index": image, "image_grid_pinpoints": PINPOINTS}
    if kind == "llava_next":
        return LlavaNextConfig(
            vision_config={"model_type": "clip_vision_model", **vision},
            text_config={"model_type": "mistral", "sliding_window": None, **text},
            image_seq_length=36,
            **common,
        ), LlavaNextForConditionalGeneration
    return LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
        text_config={"model_type": "qwen2", **text},
        video_token_index=4,
        vision_aspect_ratio="anyres_max_2",  # a map of four tiles is scaled down
        **common,
    ), LlavaOnevisionForConditionalGeneration


def views(rule: ImageRule, inputs: Mapping[str, Tensor]) -> list[Views]:
    """Return the views of each image of a batch."""
    sizes = inputs["image_sizes"].tolist()
    together = inputs.get("batch_num_images", torch.ones(len(sizes), dtype=torch.long)).tolist()
    alone = [n for n in together for _ in range(n)]
    return [rule.views(w, h, n) for (h, w), n in zip(sizes, alone, strict=True)]


def scaled(rule: ImageRule, inputs: Mapping[str, Tensor]) -> list[bool]:
    """Return for each view of a batch whether it is a map that was scaled down."""
    out = []
    for (h, w), seen in zip(inputs["image_sizes"].tolist(), views(rule, inputs), strict=True):
        crops = rule.crops(w, h) if seen.tiles > 1 else None
        out += [False, crops is not None and crops.inner != (crops.rows, crops.columns)]
    return out


def tokens(rule: ImageRule, sizes: list[tuple[int, int]]) -> list[int]:
    """Return the placeholders of each image of one prompt; the stock model refuses any other number."""
    return [rule.views(w, h, len(sizes)).tokens for h, w in sizes]


def images(
    kind: str, rule: ImageRule, prompts: list[list[tuple[int, int]]], random: torch.Generator
) -> dict[str, Tensor]:
    """Return pixels and sizes of the images of each prompt, tiles padded with zeros to the most of an image."""
    tiles = [rule.views(w, h, len(mine)).tiles for mine in prompts for h, w in mine]
    pixels = torch.randn(len(tiles), max(tiles), 3, SIDE, SIDE, generator=random)
    for image, count in enumerate(tiles):
        pixels[image, count:] = 0
    out = {"pixel_values": pixels, "image_sizes": torch.tensor([size for mine in prompts for size in mine])}
    if kind == "llava_onevision":
        out["batch_num_images"] = torch.tensor([len(mine) for mine in prompts])
    return out
