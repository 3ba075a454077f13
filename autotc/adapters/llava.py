"""LLaVA-1.5: CLIP tower at one fixed square resolution, two-layer projector, Llama decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from autotc.adapter import Grid, ModelAdapter
from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy
from autotc.errors import UnsupportedError

CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "num_channels": 3,
    "projection_dim": 768,
}


def llama(width: int, mlp: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    """Return a Llama config in Hugging Face form; `more` for what differs from Vicuna."""
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        **more,
    }


def config(kind: str, text: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the config of a model of this kind in Hugging Face form; `more` for what differs from LLaVA-1.5."""
    return {
        "model_type": kind,
        "text_config": dict(text),
        "vision_config": CLIP,
        "image_token_index": 32000,
        "image_seq_length": 576,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": False,
        **more,
    }


class Llava(ModelAdapter):
    """LLaVA-1.5, and the base of its successors.

    Class data: `towers` and `texts` (`model_type` of the parts that are tested), `strategy` (which tower rows
    become tokens), `newlines` (whether there is a newline embedding).
    """

    name = "llava"
    model_types = ("llava",)
    aliases = {
        "llava-1.5-7b": {
            "id": "llava-hf/llava-1.5-7b-hf",
            "config": config("llava", llama(4096, 11008, 32, 32)),
        },
        "llava-1.5-13b": {
            "id": "llava-hf/llava-1.5-13b-hf",
            "config": config("llava", llama(5120, 13824, 40, 40)),
        },
    }
    positions = ("original", "compact")
    tower_prefix = 1
    block_masks = True
    towers: ClassVar[tuple[str, ...]] = ("clip_vision_model",)
    texts: ClassVar[tuple[str, ...]] = ("llama", "vicuna")
    strategy: ClassVar[str] = "default"
    newlines: ClassVar[bool] = False

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.require(self.config.to_dict())

    @classmethod
    def anatomy(cls, config: Mapping[str, Any], id: str) -> Anatomy:
        cls.require(config)
        vision, text = config["vision_config"], config["text_config"]
        width, patch = vision["hidden_size"], vision["patch_size"]
        tower = VisionAnatomy(
            blocks=vision["num_hidden_layers"],
            blocks_used=cls.used(vision["num_hidden_layers"], config["vision_feature_layer"]),
            width=width,
            heads=vision["num_attention_heads"],
            mlp=vision["intermediate_size"],
            mlp_matrices=2,
            prefix=cls.tower_prefix,
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
        parameters = _parameters(tower, decoder, config) + (decoder.width if cls.newlines else 0)
        return Anatomy(cls.name, id, cls.rule(config), tower, decoder, parameters)

    @classmethod
    def rule(cls, config: Mapping[str, Any]) -> ImageRule:
        """Return how images become tokens."""
        vision = config["vision_config"]
        return ImageRule(patch=vision["patch_size"], fixed=vision["image_size"])

    @classmethod
    def require(cls, config: Mapping[str, Any]) -> None:
        """Refuse by name what is not tested."""
        tower, text = config["vision_config"]["model_type"], config["text_config"]["model_type"]
        if tower not in cls.towers or text not in cls.texts:
            raise UnsupportedError(
                f"{cls.name}: a {tower} tower with a {text} language model is not supported, "
                f"only {' or '.join(cls.towers)} with {' or '.join(cls.texts)}"
            )
        if config["vision_feature_select_strategy"] != cls.strategy:
            raise UnsupportedError(
                f"{cls.name}: vision_feature_select_strategy: only {cls.strategy!r} is supported"
            )
        if config["text_config"].get("sliding_window") is not None:
            raise UnsupportedError(f"{cls.name}: text_config.sliding_window: only null is supported")

    @classmethod
    def used(cls, blocks: int, layer: int | list[int]) -> int:
        """Return the blocks before the chosen hidden state; 0 is the embedding, -1 the last block's output."""
        if not isinstance(layer, int):
            raise UnsupportedError(
                f"{cls.name}: vision_feature_layer: several layers are not supported, only one"
            )
        return blocks + 1 + layer if layer < 0 else layer

    @property
    def tower(self) -> Any:
        return self.core.vision_tower

    @property
    def blocks(self) -> Any:
        return self.core.vision_tower.encoder.layers

    @property
    def blocks_used(self) -> int:
        return self.used(len(self.blocks), self.config.vision_feature_layer)

    @property
    def tower_norm(self) -> Any:
        return self.core.vision_tower.post_layernorm

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


def _parameters(v: VisionAnatomy, d: DecoderAnatomy, config: Mapping[str, Any]) -> int:
    """Count the weights: tower, projector, and the decoder's layers, whose biases are optional in Llama and fixed in
    Qwen2.
    """
    text = config["text_config"]
    bias = 1 if config.get("multimodal_projector_bias", True) else 0
    projector = sum(i * o + bias * o for i, o in v.projector)
    q, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    layer = 2 * d.width * (q + kv) + 3 * d.width * d.mlp + 2 * d.width
    if text["model_type"] == "qwen2":
        layer += q + 2 * kv
    elif text.get("attention_bias"):
        layer += q + 2 * kv + d.width
    if text.get("mlp_bias"):
        layer += 2 * d.mlp + d.width
    tied = 1 if config.get("tie_word_embeddings") else 2
    tower = _tower_parameters(v, config["vision_config"])
    return tower + projector + d.layers * layer + d.width + d.vocab * d.width * tied


def _tower_parameters(v: VisionAnatomy, vision: Mapping[str, Any]) -> int:
    """Count the tower's weights: CLIP has a CLS row and a norm in front, SigLIP a biased embedding, perhaps a head."""
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    norm = 2 * v.width
    mlp = 2 * v.width * v.mlp + v.mlp + v.width
    attention = 4 * v.width**2 + 4 * v.width
    total = (v.patch_inputs + patches) * v.width + v.blocks * (attention + mlp + 2 * norm) + norm
    if vision["model_type"] == "clip_vision_model":
        return total + 2 * v.width + norm
    head = v.width + attention + norm + mlp if vision.get("vision_use_head", True) else 0
    return total + v.width + head
