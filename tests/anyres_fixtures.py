"""Model folders of the families that cut images into tiles: random weights, 48-pixel tiles of 36 tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.evaluate_fixtures import WORDS, _save

PINPOINTS = [[48, 96], [96, 48], [96, 96], [144, 48], [48, 144]]


@cache
def anyres_folder(kind: str, layers: int = 4, width: int = 48) -> Path:
    """Return a folder with model, tokenizer and image processor of "llava_next" or "llava_onevision"."""
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 8,
    }
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    common: dict[str, Any] = {"image_token_index": 6, "image_grid_pinpoints": PINPOINTS, **ids}
    common["tie_word_embeddings"] = False
    if kind == "llava_next":
        from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        config: Any = LlavaNextConfig(
            vision_config={"model_type": "clip_vision_model", **vision},
            text_config={"model_type": "llama", **text, **ids},
            image_seq_length=36,
            **common,
        )
        model: Any = LlavaNextForConditionalGeneration(config)
        images: Any = LlavaNextImageProcessorPil(
            size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_grid_pinpoints=PINPOINTS
        )
    else:
        from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
        from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
            LlavaOnevisionImageProcessorPil,
        )

        config = LlavaOnevisionConfig(
            vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
            text_config={"model_type": "qwen2", **text, **ids},
            video_token_index=7,
            vision_aspect_ratio="anyres_max_2",
            **common,
        )
        model = LlavaOnevisionForConditionalGeneration(config)
        images = LlavaOnevisionImageProcessorPil(
            size={"height": 48, "width": 48}, image_grid_pinpoints=PINPOINTS
        )
    return _save(model, Path(mkdtemp(prefix=f"tiny-{kind}-")), "<image>", images, 0)
