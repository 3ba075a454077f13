"""LLaVA-OneVision: SigLIP tower, images packed as in LLaVA-NeXT, Qwen2 decoder.

A map of more than nine tiles is scaled down; where a prompt has several images each of them is one tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autotc._views import View
from autotc.adapter import OF_CLS_ROW, OF_TEXT_ENCODER
from autotc.adapters import llava, llava_next
from autotc.anatomy import ImageRule
from autotc.errors import UnsupportedError

_SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "num_channels": 3,
    "vision_use_head": False,
}


def _entry(
    id: str, width: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool = False
) -> dict[str, Any]:
    text = llava.llama(
        width,
        mlp,
        layers,
        heads,
        model_type="qwen2",
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
    )
    sides = range(384, 2305, 384)
    config = llava.config(
        "llava_onevision",
        text,
        vision_config=_SIGLIP,
        image_token_index=151646,
        video_token_index=151647,
        image_grid_pinpoints=[[h, w] for h in sides for w in sides],
        vision_aspect_ratio="anyres_max_9",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=tied,
    )
    del config["image_seq_length"]
    return {"id": f"llava-hf/{id}", "config": config}


_7B = _entry("llava-onevision-qwen2-7b-ov-hf", 3584, 18944, 28, 28, 4, 152128)


class LlavaOnevision(llava_next.LlavaNext):
    """LLaVA-OneVision."""

    name = "llava_onevision"
    model_types = ("llava_onevision",)
    aliases = {
        "llava-onevision": _7B,
        "llava-onevision-0.5b": _entry(
            "llava-onevision-qwen2-0.5b-ov-hf", 896, 4864, 24, 14, 2, 152000, tied=True
        ),
        "llava-onevision-7b": _7B,
        "llava-onevision-72b": _entry("llava-onevision-qwen2-72b-ov-hf", 8192, 29568, 80, 64, 8, 152128),
    }
    signals_absent = OF_CLS_ROW + OF_TEXT_ENCODER
    tower_prefix = 0
    towers = ("siglip_vision_model",)
    texts = ("qwen2",)
    strategy = "full"

    @classmethod
    def rule(cls, config: Mapping[str, Any]) -> ImageRule:
        return replace(
            super().rule(config), most_tiles=_most_tiles(config["vision_aspect_ratio"]), alone=True
        )

    def views(self, call: Mapping[str, Any]) -> list[View]:
        aspect = call.get("vision_aspect_ratio")
        if aspect not in (None, self.config.vision_aspect_ratio):
            raise UnsupportedError(
                f"llava_onevision: vision_aspect_ratio={aspect!r} in a call is not supported; "
                f"only the config's {self.config.vision_aspect_ratio!r}"
            )
        return super().views(call)

    def _together(self, call: Mapping[str, Any]) -> list[int]:
        counts = call.get("batch_num_images")
        if counts is None:
            return super()._together(call)
        return [int(n) for n in counts for _ in range(int(n))]


def _most_tiles(aspect: str) -> int:
    """Read "anyres_max_9"."""
    number = aspect.removeprefix("anyres_max_")
    if not number.isdigit():
        raise UnsupportedError(
            f"llava_onevision: vision_aspect_ratio: {aspect!r} is not supported, only 'anyres_max_N'"
        )
    return int(number)
