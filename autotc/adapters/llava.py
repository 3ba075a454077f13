"""LLaVA-1.5: CLIP tower at one fixed square resolution, two-layer projector, Llama decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from autotc.adapter import Grid, ModelAdapter
from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy
from autotc.errors import UnsupportedError


def _config(width: int, mlp: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "llava",
        "text_config": {
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": 32064,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "attention_bias": False,
            "mlp_bias": False,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
            "num_channels": 3,
            "projection_dim": 768,
        },
        "image_token_index": 32000,
        "image_seq_length": 576,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": False,
    }


class Llava(ModelAdapter):
    """LLaVA-1.5."""

    name = "llava"
    model_types = ("llava",)
    aliases = {
        "llava-1.5-7b": {"id": "llava-hf/llava-1.5-7b-hf", "config": _config(4096, 11008, 32, 32)},
        "llava-1.5-13b": {"id": "llava-hf/llava-1.5-13b-hf", "config": _config(5120, 13824, 40, 40)},
    }
    positions = ("original", "compact")
    tower_prefix = 1
    block_masks = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        _require_clip(self.config.to_dict())

    @classmethod
    def anatomy(cls, config: Mapping[str, Any], id: str) -> Anatomy:
        _require_clip(config)
        vision, text = config["vision_config"], config["text_config"]
        width, patch, side = vision["hidden_size"], vision["patch_size"], vision["image_size"]
        tower = VisionAnatomy(
            blocks=vision["num_hidden_layers"],
            blocks_used=_blocks_used(vision["num_hidden_layers"], config["vision_feature_layer"]),
            width=width,
            heads=vision["num_attention_heads"],
            mlp=vision["intermediate_size"],
            mlp_matrices=2,
            prefix=1,
            window_patches=0,
            full_blocks=tuple(range(vision["num_hidden_layers"])),
            patch_inputs=vision["num_channels"] * patch**2,
            projector=((width, text["hidden_size"]), (text["hidden_size"], text["hidden_size"])),
        )
        heads = text["num_attention_heads"]
        decoder = DecoderAnatomy(
            layers=text["num_hidden_layers"],
            width=text["hidden_size"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or text["hidden_size"] // heads,
            mlp=text["intermediate_size"],
            vocab=text["vocab_size"],
        )
        rule = ImageRule(patch=patch, fixed=side)
        return Anatomy(cls.name, id, rule, tower, decoder, _parameters(tower, decoder, config, rule))

    @property
    def tower(self) -> Any:
        return self.core.vision_tower

    @property
    def blocks(self) -> Any:
        return self.core.vision_tower.encoder.layers

    @property
    def blocks_used(self) -> int:
        return _blocks_used(len(self.blocks), self.config.vision_feature_layer)

    @property
    def projector(self) -> Any:
        return self.core.multi_modal_projector

    def attention(self, block: Any) -> Any:
        return block.self_attn

    def attend(self, block: Any, hidden: Tensor, **kwargs: Any) -> Tensor:
        out: Tensor = hidden + block.self_attn(hidden_states=block.layer_norm1(hidden), **kwargs)[0]
        return out

    def feed(self, block: Any, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + block.mlp(block.layer_norm2(hidden))
        return out

    def tower_grids(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Grid]:
        pixels = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
        patch = self.config.vision_config.patch_size
        return [(1, pixels.shape[-2] // patch, pixels.shape[-1] // patch)] * len(pixels)

    def tower_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        pixels = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
        side = self.config.vision_config.image_size
        return None if pixels.shape[-2:] == (side, side) else {**kwargs, "interpolate_pos_encoding": True}

    def prompt_positions(self, mask: Tensor) -> Tensor | None:
        return (mask.long().cumsum(-1) - 1).clamp_min(0)


def _blocks_used(blocks: int, layer: int | list[int]) -> int:
    """Blocks before the chosen hidden state; hidden state 0 is the embedding, -1 the last block's output."""
    if not isinstance(layer, int):
        raise UnsupportedError("llava: vision_feature_layer: several layers are not supported, only one")
    return blocks + 1 + layer if layer < 0 else layer


def _require_clip(config: Mapping[str, Any]) -> None:
    tower, text = config["vision_config"]["model_type"], config["text_config"]["model_type"]
    if tower != "clip_vision_model" or text not in ("llama", "vicuna"):
        raise UnsupportedError(
            f"llava: a {tower} tower with a {text} language model is not supported, "
            "only clip_vision_model with llama"
        )
    if config["vision_feature_select_strategy"] != "default":
        raise UnsupportedError(
            "llava: vision_feature_select_strategy: only 'default' (without the CLS row) is supported"
        )


def _parameters(v: VisionAnatomy, d: DecoderAnatomy, config: Mapping[str, Any], rule: ImageRule) -> int:
    """Count the weights: embeddings and layer norms of CLIP, the projector, Llama's layers (optional
    biases).
    """
    side = (rule.fixed or 0) // rule.patch
    block = 4 * v.width**2 + 4 * v.width + 2 * v.width * v.mlp + v.mlp + v.width + 4 * v.width
    tower = v.width + v.patch_inputs * v.width + (side**2 + 1) * v.width + v.blocks * block + 4 * v.width
    bias = 1 if config.get("multimodal_projector_bias", True) else 0
    projector = sum(i * o + bias * o for i, o in v.projector)
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    layer = 2 * d.width * (q + kv) + 3 * d.width * d.mlp + 2 * d.width
    if config["text_config"].get("attention_bias"):
        layer += q + 2 * kv + d.width
    if config["text_config"].get("mlp_bias"):
        layer += 2 * d.mlp + d.width
    tied = 1 if config.get("tie_word_embeddings") else 2
    return tower + projector + d.layers * layer + d.width + d.vocab * d.width * tied
