"""LLaVA-NeXT (LLaVA-1.6): LLaVA's tower over a base tile and crops of any resolution, packed with newline embeddings.

The prompt holds the base tile's tokens, then the map of all crops without its padding, row by row, one newline
embedding behind each row: two views of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from autotc._views import View, image_views
from autotc.adapters import llava
from autotc.anatomy import ImageRule


def _entry(id: str, text: Mapping[str, Any], image_token: int = 32000) -> dict[str, Any]:
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    config = llava.config("llava_next", text, image_token_index=image_token, image_grid_pinpoints=pinpoints)
    return {"id": f"llava-hf/{id}", "config": config}


_MISTRAL = llava.llama(
    4096,
    14336,
    32,
    32,
    model_type="mistral",
    num_key_value_heads=8,
    head_dim=128,
    sliding_window=None,
    max_position_embeddings=32768,
)
_LLAMA3 = llava.llama(
    4096, 14336, 32, 32, num_key_value_heads=8, vocab_size=128320, max_position_embeddings=8192
)
_YI = llava.llama(7168, 20480, 60, 56, num_key_value_heads=8, vocab_size=64064)


_VICUNA = _entry("llava-v1.6-vicuna-7b-hf", llava.llama(4096, 11008, 32, 32))


class LlavaNext(llava.Llava):
    """LLaVA-NeXT, and the base of families that pack images as it does."""

    name = "llava_next"
    model_types = ("llava_next",)
    aliases = {
        "llava-next": _VICUNA,
        "llava-next-7b": _VICUNA,
        "llava-next-13b": _entry("llava-v1.6-vicuna-13b-hf", llava.llama(5120, 13824, 40, 40)),
        "llava-next-mistral-7b": _entry("llava-v1.6-mistral-7b-hf", _MISTRAL),
        "llava-next-34b": _entry("llava-v1.6-34b-hf", _YI, 64000),
        "llava-next-llama3-8b": _entry("llama3-llava-next-8b-hf", _LLAMA3, 128256),
    }
    sites = ("projector", "decoder")
    refusals = {
        "input": "images are cut into tiles of one size, smaller images have no fewer tokens there",
        "vision": "cuts inside the tower would leave holes in the map of the crops; cut at 'projector'",
    }
    texts: ClassVar[tuple[str, ...]] = ("llama", "vicuna", "mistral")
    newlines = True

    @classmethod
    def rule(cls, config: Mapping[str, Any]) -> ImageRule:
        pinpoints = tuple((int(h), int(w)) for h, w in config["image_grid_pinpoints"])
        return replace(super().rule(config), pinpoints=pinpoints)

    def views(self, call: Mapping[str, Any]) -> list[View]:
        rule = self.rule(self.config.to_dict())
        sizes = [(int(w), int(h)) for h, w in call["image_sizes"].tolist()]
        out: list[View] = []
        tile = 0
        for group, ((width, height), images) in enumerate(zip(sizes, self._together(call), strict=True)):
            out += image_views(rule, width, height, images, tile, group)
            tile += rule.views(width, height, images).tiles
        return out

    def _together(self, call: Mapping[str, Any]) -> list[int]:
        """Return how many images stand in the prompt of each image."""
        return [1] * len(call["image_sizes"])
