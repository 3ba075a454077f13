"""Configuration of the proxy models, and writing one as a plain Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from autotc.proxies import vocabulary as v

PATCH = 7  # pixels a side
MERGE = 2  # patches a side that become one visual token
CELL = PATCH * MERGE  # pixels a side of one visual token
WINDOW = 4  # visual tokens a side of one attention window in the tower
MEAN, STD = 0.5, 0.25  # of pixel values in 0..1


def build(
    *, layers: int = 14, width: int = 160, heads: int = 4, tower_width: int = 128, blocks: int = 4
) -> Qwen2_5_VLForConditionalGeneration:
    """Build the untrained model; the defaults are ``qwen2_5_vl-tiny``.

    Fourteen decoder layers divide the 28 of Qwen2.5-VL-7B, so that depths can be translated.
    """
    half = width // heads // 2
    time = max(1, half // 5)
    row = (half - time) // 2
    text = {
        "vocab_size": len(v.WORDS),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            # The column turns by the slowest angles: with the usual 10,000 it hardly turns at all
            # over a dozen columns, and questions about places are learned late.
            "rope_theta": 100.0,
            "mrope_section": [half - 2 * row, row, row],
        },
        "pad_token_id": v.PAD,
        "bos_token_id": v.START,
        "eos_token_id": v.END,
    }
    vision = {
        "depth": blocks,
        "hidden_size": tower_width,
        "intermediate_size": tower_width * 5 // 2,
        "num_heads": tower_width // 32,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": WINDOW * CELL,
        "fullatt_block_indexes": list(range(1, blocks, 2)),
        "out_hidden_size": width,
        "hidden_act": "silu",
    }
    config = Qwen2_5_VLConfig(  # type: ignore[call-arg]
        text_config=text,
        vision_config=vision,
        image_token_id=v.IMAGE,
        video_token_id=v.VIDEO,
        vision_start_token_id=v.VISION_START,
        vision_end_token_id=v.VISION_END,
        pad_token_id=v.PAD,
        bos_token_id=v.START,
        eos_token_id=v.END,
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.tie_weights()
    return model


def image_processor_settings() -> dict[str, Any]:
    """Return preprocessor_config.json: pixels are taken as they are, sides rounded to 14."""
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "merge_size": MERGE,
        "patch_size": PATCH,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 16 * CELL**2, "longest_edge": 576 * CELL**2},
        "temporal_patch_size": 2,
    }


def export(model: Qwen2_5_VLForConditionalGeneration, out: Path) -> None:
    """Write weights in fp16, configurations, tokenizer and image processor into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    half = Qwen2_5_VLForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.tie_weights()
    half.generation_config = GenerationConfig(
        pad_token_id=v.PAD, bos_token_id=v.START, eos_token_id=v.END, do_sample=False
    )
    half.half().save_pretrained(out)
    v.tokenizer().save_pretrained(out)
    settings = json.dumps(image_processor_settings(), indent=2, sort_keys=True) + "\n"
    (out / "preprocessor_config.json").write_text(settings)
    (out / "model.safetensors").chmod(0o644)  # it is written for its owner only
