"""InternVL3 and InternVL3.5 in Hugging Face's own form (`-hf`): InternViT tower, pixel shuffle, Qwen2 or Qwen3 decoder.

A picture becomes up to twelve tiles and a thumbnail; each is one image of the tower and 256 tokens of the language
model. A token is a square of 2x2 patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autotc.adapter import Grid, ModelAdapter
from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy
from autotc.errors import UnsupportedError


def _entry(
    id: str, text: str, width: int, mlp: int, layers: int, heads: int, kv_heads: int
) -> dict[str, Any]:
    newer = text == "qwen3"
    config = {
        "model_type": "internvl",
        "text_config": {
            "model_type": text,
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": 128 if newer else width // heads,
            "vocab_size": 151936 if newer else 151674,
            "max_position_embeddings": 40960 if newer else 32768,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "attention_bias": True,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "image_size": [448, 448],
            "patch_size": [14, 14],
            "num_channels": 3,
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
        },
        "image_token_id": 151671 if newer else 151667,
        "image_seq_length": 256,
        "downsample_ratio": 0.5,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
    }
    return {"id": f"OpenGVLab/{id}", "config": config}


class InternVL(ModelAdapter):
    """InternVL3, InternVL3.5."""

    name = "internvl"
    model_types = ("internvl",)
    aliases = {
        "internvl3-1b": _entry("InternVL3-1B-hf", "qwen2", 896, 4864, 24, 14, 2),
        "internvl3-2b": _entry("InternVL3-2B-hf", "qwen2", 1536, 8960, 28, 12, 2),
        "internvl3-8b": _entry("InternVL3-8B-hf", "qwen2", 3584, 18944, 28, 28, 4),
        "internvl3-14b": _entry("InternVL3-14B-hf", "qwen2", 5120, 13824, 48, 40, 8),
        "internvl3.5-1b": _entry("InternVL3_5-1B-HF", "qwen3", 1024, 3072, 28, 16, 8),
        "internvl3.5-2b": _entry("InternVL3_5-2B-HF", "qwen3", 2048, 6144, 28, 16, 8),
        "internvl3.5-4b": _entry("InternVL3_5-4B-HF", "qwen3", 2560, 9728, 36, 32, 8),
        "internvl3.5-8b": _entry("InternVL3_5-8B-HF", "qwen3", 4096, 12288, 36, 32, 8),
        "internvl3.5-14b": _entry("InternVL3_5-14B-HF", "qwen3", 5120, 17408, 40, 40, 8),
    }
    positions = ("original", "compact")
    token_members = 4
    tower_prefix = 1
    tiles_touch = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        _require(self.config.to_dict())

    @classmethod
    def anatomy(cls, config: Mapping[str, Any], id: str) -> Anatomy:
        _require(config)
        vision, text = config["vision_config"], config["text_config"]
        width, patch, side = vision["hidden_size"], vision["patch_size"][0], vision["image_size"][0]
        merge = round(1 / config["downsample_ratio"])
        out = text["hidden_size"]
        tower = VisionAnatomy(
            blocks=vision["num_hidden_layers"],
            blocks_used=vision["num_hidden_layers"],
            width=width,
            heads=vision["num_attention_heads"],
            mlp=vision["intermediate_size"],
            mlp_matrices=2,
            prefix=1,
            window_patches=0,
            full_blocks=tuple(range(vision["num_hidden_layers"])),
            patch_inputs=vision["num_channels"] * patch**2,
            projector=((width * merge**2, out), (out, out)),
        )
        heads = text["num_attention_heads"]
        decoder = DecoderAnatomy(
            layers=text["num_hidden_layers"],
            width=out,
            heads=heads,
            kv_heads=text["num_key_value_heads"],
            head_dim=text.get("head_dim") or out // heads,
            mlp=text["intermediate_size"],
            vocab=text["vocab_size"],
        )
        rule = ImageRule(patch=patch, merge=merge, fixed=side, cut=12)
        return Anatomy(cls.name, id, rule, tower, decoder, _parameters(tower, decoder, config))

    @classmethod
    def image_rule(cls, rule: ImageRule, processor: Mapping[str, Any]) -> ImageRule:
        return replace(rule, cut=int(processor.get("max_patches") or rule.cut))

    @property
    def tower(self) -> Any:
        return self.core.vision_tower

    @property
    def blocks(self) -> Any:
        return self.core.vision_tower.encoder.layer

    @property
    def projector(self) -> Any:
        return self.core.multi_modal_projector

    def attention(self, block: Any) -> Any:
        return block.attention

    def attend(self, block: Any, hidden: Tensor, **kwargs: Any) -> Tensor:
        out: Tensor = block.lambda_1 * block.attention(block.layernorm_before(hidden))[0] + hidden
        return out

    def feed(self, block: Any, hidden: Tensor) -> Tensor:
        out: Tensor = block.lambda_2 * block.mlp(block.layernorm_after(hidden)) + hidden
        return out

    def tower_grids(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Grid]:
        pixels = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
        unit = self.config.vision_config.patch_size[0] * round(1 / self.config.downsample_ratio)
        return [(1, pixels.shape[-2] // unit, pixels.shape[-1] // unit)] * len(pixels)

    def token_rows(self, grid: Grid, device: torch.device) -> Tensor:
        merge = round(1 / self.config.downsample_ratio)
        _, h, w = grid
        rows = torch.arange(h * w * merge**2, device=device).view(h, merge, w, merge)
        return rows.transpose(1, 2).reshape(h * w, merge**2)

    def prompt_positions(self, mask: Tensor) -> Tensor | None:
        return (mask.long().cumsum(-1) - 1).clamp_min(0)


def _require(config: Mapping[str, Any]) -> None:
    tower, text = config["vision_config"]["model_type"], config["text_config"]["model_type"]
    if tower != "internvl_vision" or text not in ("qwen2", "qwen3"):
        raise UnsupportedError(
            f"internvl: a {tower} tower with a {text} language model is not supported, "
            "only internvl_vision with qwen2 or qwen3"
        )
    for key, only, why in (
        ("vision_feature_layer", -1, "the last block's output"),
        ("vision_feature_select_strategy", "default", "without the CLS row"),
        ("downsample_ratio", 0.5, "2x2 patches a token"),
    ):
        if config[key] != only:
            raise UnsupportedError(
                f"internvl: {key}: only {only!r} ({why}) is supported, not {config[key]!r}"
            )


def _parameters(v: VisionAnatomy, d: DecoderAnatomy, config: Mapping[str, Any]) -> int:
    """Count the weights: two scales a block, optional biases and norms of queries and keys in the tower; biased
    projections in Qwen2, head norms in Qwen3.
    """
    vision, text = config["vision_config"], config["text_config"]
    norm = v.width * (2 if vision["norm_type"] == "layer_norm" else 1)
    block = 4 * v.width**2 + v.width + 2 * v.width * v.mlp + v.mlp + v.width + 2 * norm + 2 * v.width
    block += (3 * v.width if vision["attention_bias"] else 0) + (2 * v.width if vision["use_qk_norm"] else 0)
    (high, wide), patch = vision["image_size"], vision["patch_size"][0]
    positions = (high // patch) * (wide // patch) + 1 if vision["use_absolute_position_embeddings"] else 0
    masks = 1 if vision["use_mask_token"] else 0
    tower = (v.patch_inputs + 1) * v.width + (1 + masks + positions) * v.width + v.blocks * block
    tower += 0 if vision["use_mean_pooling"] else 2 * v.width
    projector = 2 * v.projector[0][0] + sum(i * o + o for i, o in v.projector)
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    layer = 2 * d.width * (q + kv) + 3 * d.width * d.mlp + 2 * d.width
    if text["model_type"] == "qwen3":
        layer += 2 * d.head_dim + (q + 2 * kv + d.width if text.get("attention_bias") else 0)
    else:
        layer += q + 2 * kv
    head = 1 if config.get("tie_word_embeddings") else 2
    return tower + projector + d.layers * layer + d.width + d.vocab * d.width * head
