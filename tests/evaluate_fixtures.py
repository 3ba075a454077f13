"""Tiny random model folders of several families, and a task of random pictures, to run whole models in tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from autotc.adapter import anatomy
from autotc.policy import ModelRef, Policy, Stage
from autotc.task import Example, Split, Task

COLORS = ("red", "green", "blue", "yellow")
WORDS = (
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<vs>",
    "<ve>",
    "<image>",
    "<video>",
    "user",
    "assistant",
    "what",
    "is",
)
WORDS += ("the", "colour", "of", "left", "right", "half", "?", ":", *COLORS)
# as InternVL's tokenizer names them
MARKS = {
    "start_image_token": "<vs>",
    "end_image_token": "<ve>",
    "context_image_token": "<image>",
    "video_token": "<video>",
}
TEMPLATE = """\
{%- for message in messages -%}
{{ message['role'] }} :{{ ' ' }}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ IMAGE }}{{ ' ' }}{%- else -%}{{ part['text'] }}{{ ' ' }}{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}assistant :{%- endif -%}
"""


def tokenizer(image: str) -> Any:
    """One token a word; `image` is what the chat template writes for an image."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(list(WORDS[:8]))
    outer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        extra_special_tokens=MARKS,
    )
    outer.chat_template = TEMPLATE.replace("{{ IMAGE }}", image)
    return outer


def _save(model: Any, folder: Path, image: str, image_processor: Any, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():  # large enough for answers that depend on the image
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * (1.6 / weight.shape[-1] ** 0.5))
            elif "norm" not in name:
                weight.zero_()
    model.save_pretrained(folder)
    tokenizer(image).save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return folder


@cache
def qwen_folder(layers: int = 5, width: int = 48, seed: int = 0) -> Path:
    """A random Qwen2.5-VL with 14-pixel visual tokens, windows of 2 x 2 tokens."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    text = {
        "vocab_size": len(WORDS),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [width // 8 - 2 * (width // 24), width // 24, width // 24],
        },
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 7,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 28,
        "fullatt_block_indexes": [0, 2],
        "out_hidden_size": width,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=6,
        video_token_id=7,
        vision_start_token_id=4,
        vision_end_token_id=5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, size={"shortest_edge": 14 * 14, "longest_edge": 140 * 140}
    )
    folder = Path(mkdtemp(prefix="tiny-qwen-"))
    return _save(Qwen2_5_VLForConditionalGeneration(config), folder, "<vs> <image> <ve>", images, seed)


@cache
def llava_folder(layers: int = 5, width: int = 48, seed: int = 0) -> Path:
    """A random LLaVA-1.5: CLIP tower on 48 x 48 pixels, 36 visual tokens."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=48,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=6,
        image_seq_length=36,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    folder = Path(mkdtemp(prefix="tiny-llava-"))
    return _save(LlavaForConditionalGeneration(config), folder, "<image>", images, seed)


@cache
def qwen3_folder(layers: int = 5, width: int = 48, seed: int = 0) -> Path:
    """A random Qwen3-VL with 14-pixel visual tokens and two levels of DeepStack."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        **ids,
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 7,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
        "out_hidden_size": width,
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=6,
        video_token_id=7,
        vision_start_token_id=4,
        vision_end_token_id=5,
        tie_word_embeddings=False,
        **ids,
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, size={"shortest_edge": 14 * 14, "longest_edge": 140 * 140}
    )
    folder = Path(mkdtemp(prefix="tiny-qwen3-"))
    return _save(Qwen3VLForConditionalGeneration(config), folder, "<vs> <image> <ve>", images, seed)


@cache
def internvl_folder(layers: int = 5, width: int = 48, seed: int = 1) -> Path:
    """A random InternVL: tiles of 48 x 48 pixels, 36 visual tokens each, at most four and a thumbnail."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "attention_bias": True,
            "image_size": 48,
            "patch_size": 4,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(WORDS),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
            **ids,
        },
        image_token_id=6,
        image_seq_length=36,
        tie_word_embeddings=False,
        **ids,
    )
    images = GotOcr2ImageProcessorPil(size={"height": 48, "width": 48}, max_patches=4)
    folder = Path(mkdtemp(prefix="tiny-internvl-"))
    model = InternVLForConditionalGeneration(config)
    with torch.no_grad():  # scales of a block's halves; `_save` leaves only norms their ones
        folder = _save(model, folder, "<image>", images, seed)
        for name, weight in model.named_parameters():
            if "lambda" in name:
                weight.fill_(0.7)
    model.save_pretrained(folder)
    return folder


def picture(seed: int, width: int = 84, height: int = 84) -> Image.Image:
    """A noisy picture whose halves have two colours."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, seed % 3] = 230
    pixels[:, width // 2 :, (seed + 1 + seed // 3 % 2) % 3] = 230
    return Image.fromarray(pixels)


class Toy(Task):
    """Two questions an image, answered by rule; sizes as given, in turn."""

    name: ClassVar[str] = "toy"

    def __init__(
        self, sizes: Sequence[tuple[int, int]] = ((84, 84),), images: int = 16, answers: bool = True
    ) -> None:
        self.sizes, self.images, self._answers = tuple(sizes), images, answers

    @property
    def answered(self) -> bool:
        return self._answers

    @property
    def fingerprint(self) -> str:
        return f"toy-{self.sizes}-{self.images}-{self._answers}"

    def examples(self, split: Split, n: int | None = None) -> list[Example]:
        base = {"search": 0, "selection": 1000, "held-out": 2000}[split]
        found = []
        for i in range(self.images):
            size = self.sizes[i % len(self.sizes)]
            for q, side in enumerate(("left", "right")):
                found.append(
                    Example(
                        f"{split}-{i}-{q}",
                        f"{split}-{i}",
                        lambda i=i, size=size: [picture(base + i, *size)],
                        f"what colour is the {side} half ?" if q else f"colour of {side} ?",
                        None
                        if not self._answers
                        else " ".join(COLORS[(i + q + j) % 4] for j in range(1 + i % 2)),
                        side,
                    )
                )
        return found[:n]

    def sibling(self, split: Split, example: Example) -> Example | None:
        return next(
            (e for e in self.examples(split) if e.image == example.image and e.id != example.id),
            None,
        )


class Deadly(Toy):
    """Ends the process that asks for a certain number of examples."""

    at: ClassVar[int] = 3

    def examples(self, split: Split, n: int | None = None) -> list[Example]:
        if n == self.at:
            os._exit(7)
        return super().examples(split, n)


def policy(folder: Path, *stages: tuple[Any, ...], positions: str = "original") -> Policy:
    """A policy for a model folder from (site, layer, reducer, keep) tuples, parameters last if any."""
    numbers = anatomy(folder)
    return Policy(
        model=ModelRef(
            family=numbers.family,
            decoder_layers=numbers.decoder.layers,
            vision_blocks=numbers.vision.blocks,
        ),
        positions=positions,  # type: ignore[arg-type]
        stages=tuple(
            Stage(site=s, layer=layer, reducer=name, keep=keep, params=dict(*params))
            for s, layer, name, keep, *params in stages
        ),
    )
