"""Qwen2-VL and Qwen2.5-VL: dynamic resolution, 2x2 patch merger, M-RoPE; Qwen2.5's tower has window
attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autotc.adapter import OF_CLS_ROW, OF_ONE_SEQUENCE_AN_IMAGE, Grid, ModelAdapter
from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy

_TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


def _text(
    width: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int = 152064
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
    }


def _qwen2_5(text: dict[str, Any], vision_mlp: int = 3420, tied: bool = False) -> dict[str, Any]:
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": vision_mlp,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
        "out_hidden_size": text["hidden_size"],
        "fullatt_block_indexes": [7, 15, 23, 31],
        "hidden_act": "silu",
    }
    return {
        "model_type": "qwen2_5_vl",
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": tied,
        **_TOKENS,
    }


def _qwen2(text: dict[str, Any], tied: bool = False) -> dict[str, Any]:
    vision = {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": text["hidden_size"],
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "hidden_act": "quick_gelu",
    }
    return {
        "model_type": "qwen2_vl",
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": tied,
        **_TOKENS,
    }


_QWEN2_5_7B = {
    "id": "Qwen/Qwen2.5-VL-7B-Instruct",
    "config": _qwen2_5(_text(3584, 18944, 28, 28, 4)),
}


class Qwen2_5_VL(ModelAdapter):
    """Qwen2-VL and Qwen2.5-VL."""

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl", "qwen2_vl")
    aliases = {
        "qwen2.5-vl": _QWEN2_5_7B,
        "qwen2.5-vl-3b": {
            "id": "Qwen/Qwen2.5-VL-3B-Instruct",
            "config": _qwen2_5(_text(2048, 11008, 36, 16, 2, 151936), tied=True),
        },
        "qwen2.5-vl-7b": _QWEN2_5_7B,
        "qwen2.5-vl-32b": {
            "id": "Qwen/Qwen2.5-VL-32B-Instruct",
            "config": _qwen2_5(_text(5120, 27648, 64, 40, 8), 3456),
        },
        "qwen2.5-vl-72b": {
            "id": "Qwen/Qwen2.5-VL-72B-Instruct",
            "config": _qwen2_5(_text(8192, 29568, 80, 64, 8), 3456),
        },
        "qwen2-vl-2b": {
            "id": "Qwen/Qwen2-VL-2B-Instruct",
            "config": _qwen2(_text(1536, 8960, 28, 12, 2, 151936), tied=True),
        },
        "qwen2-vl-7b": {"id": "Qwen/Qwen2-VL-7B-Instruct", "config": _qwen2(_text(3584, 18944, 28, 28, 4))},
    }
    positions = ("original",)
    signals_absent = OF_CLS_ROW + OF_ONE_SEQUENCE_AN_IMAGE
    token_members = 4

    @classmethod
    def anatomy(cls, config: Mapping[str, Any], id: str) -> Anatomy:
        vision, text = config["vision_config"], config["text_config"]
        newer = config["model_type"] == "qwen2_5_vl"
        width = vision["hidden_size"] if newer else vision["embed_dim"]
        out = vision["out_hidden_size"] if newer else vision["hidden_size"]
        mlp = vision["intermediate_size"] if newer else int(width * vision["mlp_ratio"])
        patch, merge, blocks = vision["patch_size"], vision["spatial_merge_size"], vision["depth"]
        wide = width * merge**2
        tower = VisionAnatomy(
            blocks=blocks,
            blocks_used=blocks,
            width=width,
            heads=vision["num_heads"],
            mlp=mlp,
            mlp_matrices=3 if newer else 2,
            prefix=0,
            window_patches=(vision["window_size"] // patch) ** 2 if newer else 0,
            full_blocks=tuple(vision["fullatt_block_indexes"]) if newer else tuple(range(blocks)),
            patch_inputs=vision["in_channels"] * vision["temporal_patch_size"] * patch**2,
            projector=((wide, wide), (wide, out)),
        )
        heads = text["num_attention_heads"]
        decoder = DecoderAnatomy(
            layers=text["num_hidden_layers"],
            width=text["hidden_size"],
            heads=heads,
            kv_heads=text["num_key_value_heads"],
            head_dim=text["hidden_size"] // heads,
            mlp=text["intermediate_size"],
            vocab=text["vocab_size"],
        )
        rule = ImageRule(patch=patch, merge=merge, min_pixels=56 * 56, max_pixels=28 * 28 * 16384)
        parameters = _parameters(tower, decoder, newer, bool(config.get("tie_word_embeddings")))
        return Anatomy(cls.name, id, rule, tower, decoder, parameters)

    @property
    def tower(self) -> Any:
        return self.core.visual

    @property
    def blocks(self) -> Any:
        return self.core.visual.blocks

    @property
    def projector(self) -> Any:
        return self.core.visual.merger

    def attention(self, block: Any) -> Any:
        return block.attn

    def attend(self, block: Any, hidden: Tensor, **kwargs: Any) -> Tensor:
        out: Tensor = hidden + block.attn(block.norm1(hidden), **kwargs)
        return out

    def feed(self, block: Any, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + block.mlp(block.norm2(hidden))
        return out

    def tower_grids(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Grid]:
        grid_thw: Tensor = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        merge = self.config.vision_config.spatial_merge_size
        return [(t, h // merge, w // merge) for t, h, w in grid_thw.tolist()]

    def tower_order(self, grids: Sequence[Grid], device: torch.device) -> Tensor | None:
        """Window after window, as Qwen2.5's tower orders its groups; Qwen2's tower has no windows."""
        vision = self.config.vision_config
        if self.config.model_type != "qwen2_5_vl":
            return None
        side = vision.window_size // vision.spatial_merge_size // vision.patch_size
        order, start = [], 0
        for t, h, w in grids:
            index = torch.arange(t * h * w, device=device).view(t, h, w) + start
            for frame in index:
                order += [
                    frame[r : r + side, c : c + side].flatten()
                    for r in range(0, h, side)
                    for c in range(0, w, side)
                ]
            start += t * h * w
        return torch.cat(order)


def _parameters(v: VisionAnatomy, d: DecoderAnatomy, newer: bool, tied: bool) -> int:
    """Count the weights: RMS norms and gated biased MLPs in the newer tower, layer norms and plain MLPs
    in the older.
    """
    norm = v.width if newer else 2 * v.width
    mlp = v.mlp_matrices * v.width * v.mlp + (2 * v.mlp if newer else v.mlp) + v.width
    block = 2 * norm + 4 * v.width**2 + 4 * v.width + mlp
    merger = norm + sum(i * o + o for i, o in v.projector)
    tower = v.patch_inputs * v.width + v.blocks * block + merger
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    layer = 2 * d.width * (q + kv) + q + 2 * kv + 3 * d.width * d.mlp + 2 * d.width
    return tower + d.layers * layer + d.width + d.vocab * d.width * (1 if tied else 2)
