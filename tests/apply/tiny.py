"""Tiny random models of every family and prompts of uneven lengths, with several images and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from autotc.adapter import anatomy, family_of
from autotc.anatomy import ImageRule
from autotc.policy import ModelRef, Policy, Stage
from tests.apply import tiny_anyres

KINDS = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava", "internvl", *tiny_anyres.KINDS)
FIXED = {"llava": 36, "internvl": 16}  # tokens of every image, or of every tile
TILES = (1, 3, 1, 5)  # of each image, where they stand next to one another
LAYERS, BLOCKS, IMAGE, PAD, VOCAB = 6, 5, 3, 0, 64
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "initializer_range": 0.25,
    "max_position_embeddings": 512,
}


def model(kind: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa", seed: int = 0) -> Any:
    """Return a tiny model in eval mode."""
    torch.manual_seed(seed)
    ids = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "llava":
        vision = {
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": 2,
            "image_size": 24,
            "patch_size": 4,
        }
        config: Any = LlavaConfig(
            vision_config=vision,
            text_config={"model_type": "llama", **_TEXT, **ids},
            image_token_index=IMAGE,
            image_seq_length=36,
        )
        cls: Any = LlavaForConditionalGeneration
    elif kind == "internvl":
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": 2,
            "attention_bias": True,
            "use_qk_norm": True,
            "image_size": 32,
            "patch_size": 4,
            "initializer_range": 0.25,
            "layer_scale_init_value": 0.7,
        }
        config = InternVLConfig(
            vision_config=vision,
            text_config={"model_type": "qwen3", "head_dim": 8, **_TEXT, **ids, "tie_word_embeddings": False},
            image_token_id=IMAGE,
            image_seq_length=16,
            tie_word_embeddings=False,
        )
        cls = InternVLForConditionalGeneration
    elif kind in tiny_anyres.KINDS:
        config, cls = tiny_anyres.build(kind, {**_TEXT, **ids}, BLOCKS, IMAGE)
    else:
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
        vision = {
            "depth": BLOCKS,
            "num_heads": 2,
            "in_channels": 3,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": 0.25,
        }
        text = {**_TEXT, **ids, "rope_parameters": rope, "rms_norm_eps": 1e-6}
        tokens = {
            "image_token_id": IMAGE,
            "video_token_id": 4,
            "vision_start_token_id": 5,
            "vision_end_token_id": 6,
        }
        if kind == "qwen2_5_vl":
            vision |= {
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 32,
                "window_size": 16,
                "fullatt_block_indexes": [1, 4],
            }
            config, cls = (
                Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens),
                (Qwen2_5_VLForConditionalGeneration),
            )
        elif kind == "qwen3_vl":
            vision |= {
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 32,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0, 2, 3],
            }
            text |= {"head_dim": 8}
            config = Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)
            cls = Qwen3VLForConditionalGeneration
        else:
            vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
            config, cls = (
                Qwen2VLConfig(text_config=text, vision_config=vision, **tokens),
                (Qwen2VLForConditionalGeneration),
            )
    config._attn_implementation = attention
    built = cls(config).to(dtype).eval()
    with torch.no_grad():  # norms with other weights than one, or wrong rows would go unseen
        for name, weight in built.named_parameters():
            if "norm" in name and weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
            elif kind in ("llava", "llava_next") and "vision_tower" in name and weight.ndim > 1:
                weight.mul_(8)
            elif kind == "internvl" and ("cls_token" in name or "position_embeddings" in name):
                weight.normal_()
            elif kind == "internvl" and "lambda" in name:
                weight.mul_(1 + torch.randn_like(weight) * 0.2)
    return built


def batch(
    kind: str, dtype: torch.dtype = torch.float32, several: bool = False, seed: int = 1, rows: int = 3
) -> dict[str, torch.Tensor]:
    """Return the inputs of a left-padded batch: uneven text, images of different sizes where a family has them.

    Args:
        several: one prompt has two images, one next to the other.
    """
    random = torch.Generator().manual_seed(seed)
    anyres = kind in tiny_anyres.KINDS
    grids = [(4, 6), (6, 6), (5, 3), (2, 4)] if kind not in FIXED else [(6, 6)] * 4
    images = [[i % 4] for i in range(rows)]
    if several:
        images[1] = [1, 3]
    prompts, shown = [], []
    for i, mine in enumerate(images):
        ids = torch.randint(7, VOCAB, (3 + i,), generator=random).tolist()
        counts = [grids[image][0] * grids[image][1] for image in mine]
        if anyres:
            counts = tiny_anyres.tokens(rule(kind), [tiny_anyres.SIZES[image] for image in mine])
        elif kind == "internvl":
            counts = [FIXED[kind] * TILES[image] for image in mine]
        for image, count in zip(mine, counts, strict=True):
            h, w = grids[image]
            inner = [IMAGE] * count
            ids += inner if kind == "llava" or anyres else [5, *inner, 6]
            shown += [(h, w)] * (TILES[image] if kind == "internvl" else 1)
        prompts.append(ids + torch.randint(7, VOCAB, (4 + 2 * i,), generator=random).tolist())
    longest = max(map(len, prompts))
    input_ids = torch.tensor([[PAD] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    out = {"input_ids": input_ids, "attention_mask": mask}
    if anyres:
        sizes = [[tiny_anyres.SIZES[image] for image in mine] for mine in images]
        out |= tiny_anyres.images(kind, rule(kind), sizes, random)
        out["pixel_values"] = out["pixel_values"].to(dtype)
    elif kind in FIXED:
        side = 24 if kind == "llava" else 32
        out["pixel_values"] = torch.randn(len(shown), 3, side, side, generator=random).to(dtype)
    else:
        grid = torch.tensor([(1, 2 * h, 2 * w) for h, w in shown])
        out["image_grid_thw"] = grid
        out["pixel_values"] = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 16, generator=random).to(dtype)
        out["mm_token_type_ids"] = (input_ids == IMAGE).long()
    return out


@cache
def rule(kind: str) -> ImageRule:
    """Return how images become tokens."""
    return anatomy(model(kind)).image


def cases(plans: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Return each kind with each plan whose sites its family has."""
    fit = [(kind, name) for name in plans for kind in KINDS]
    return [(kind, name) for kind, name in fit if len(possible(kind, plans[name])) == len(plans[name])]


def possible(kind: str, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the stages at sites that a family has."""
    return [dict(stage) for stage in stages if stage["site"] in family_of(kind).sites]


def policy(built: Any, *stages: dict[str, Any], positions: str = "original") -> Policy:
    """Return a verified policy (no warning) for a tiny model."""
    numbers = anatomy(built)
    reference = ModelRef(
        family=numbers.family, decoder_layers=numbers.decoder.layers, vision_blocks=numbers.vision.blocks
    )
    return Policy.model_validate(
        {
            "model": reference.model_dump(),
            "stages": [Stage(**s).model_dump() for s in stages],
            "positions": positions,
            "status": "verified",
        }
    )
