"""Qwen3-VL, dense: dynamic resolution, 2x2 patch merger, interleaved M-RoPE, DeepStack.

DeepStack: three blocks in the middle of the tower have mergers of their own; what they give is added to the visual
rows of the states behind the first three decoder layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from autotc.adapter import OF_CLS_ROW, OF_ONE_SEQUENCE_AN_IMAGE, Grid, ModelAdapter
from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy

_LARGE = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}
_SO400M = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "deepstack_visual_indexes": [8, 16, 24],
}


def _entry(
    size: str, width: int, mlp: int, layers: int, heads: int, tower: dict[str, Any], tied: bool
) -> dict[str, Any]:
    text = {
        "model_type": "qwen3_vl_text",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5000000.0,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "model_type": "qwen3_vl_vision",
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": width,
        **tower,
    }
    config = {
        "model_type": "qwen3_vl",
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": tied,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
    }
    return {"id": f"Qwen/Qwen3-VL-{size}-Instruct", "config": config}


class Qwen3_VL(ModelAdapter):
    """Qwen3-VL."""

    name = "qwen3_vl"
    model_types = ("qwen3_vl",)
    aliases = {
        "qwen3-vl-2b": _entry("2B", 2048, 6144, 28, 16, _LARGE, True),
        "qwen3-vl-4b": _entry("4B", 2560, 9728, 36, 32, _LARGE, True),
        "qwen3-vl-8b": _entry("8B", 4096, 12288, 36, 32, _SO400M, False),
        "qwen3-vl-32b": _entry("32B", 5120, 25600, 64, 64, _SO400M, False),
    }
    positions = ("original",)
    signals_absent = OF_CLS_ROW + OF_ONE_SEQUENCE_AN_IMAGE
    token_members = 4
    deep_arguments = ("visual_pos_masks", "deepstack_visual_embeds")

    @classmethod
    def anatomy(cls, config: Mapping[str, Any], id: str) -> Anatomy:
        vision, text = config["vision_config"], config["text_config"]
        patch, merge, width = vision["patch_size"], vision["spatial_merge_size"], vision["hidden_size"]
        wide = width * merge**2
        tower = VisionAnatomy(
            blocks=vision["depth"],
            blocks_used=vision["depth"],
            width=width,
            heads=vision["num_heads"],
            mlp=vision["intermediate_size"],
            mlp_matrices=2,
            prefix=0,
            window_patches=0,
            full_blocks=tuple(range(vision["depth"])),
            patch_inputs=vision["in_channels"] * vision["temporal_patch_size"] * patch**2,
            projector=((wide, wide), (wide, vision["out_hidden_size"])),
            deep=tuple(vision["deepstack_visual_indexes"]),
        )
        decoder = DecoderAnatomy(
            layers=text["num_hidden_layers"],
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_dim=text["head_dim"],
            mlp=text["intermediate_size"],
            vocab=text["vocab_size"],
        )
        rule = ImageRule(patch=patch, merge=merge, min_pixels=256 * 256, max_pixels=4096 * 4096)
        parameters = _parameters(tower, decoder, config)
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

    @property
    def deep_projectors(self) -> Sequence[Any]:
        return list(self.core.visual.deepstack_merger_list)

    def set_deep(self, output: Any, features: Sequence[Tensor]) -> None:
        output.deepstack_features = list(features)

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


def _parameters(v: VisionAnatomy, d: DecoderAnatomy, config: Mapping[str, Any]) -> int:
    """Count the weights: biased layer norms, attention and plain MLPs in the tower, a table of positions, one merger a
    level; head norms and no biases (unless asked for) in the decoder.
    """
    block = 4 * v.width + 4 * (v.width**2 + v.width) + 2 * v.width * v.mlp + v.mlp + v.width
    merger = sum(i * o + o for i, o in v.projector)
    wide = v.projector[0][0]  # the mergers of DeepStack norm a whole group, the last one each of its patches
    positions = config["vision_config"]["num_position_embeddings"] * v.width
    tower = (v.patch_inputs + 1) * v.width + positions + v.blocks * block
    tower += merger + 2 * v.width + len(v.deep) * (merger + 2 * wide)
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    layer = 2 * d.width * (q + kv) + 2 * d.head_dim + 3 * d.width * d.mlp + 2 * d.width
    if config["text_config"].get("attention_bias"):
        layer += q + 2 * kv + d.width
    head = 1 if config.get("tie_word_embeddings") else 2
    return tower + d.layers * layer + d.width + d.vocab * d.width * head
