"""Site `input`: the same as the stock model on the resized image; budgets stay fractions of the original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from autotc.adapter import anatomy
from autotc.apply import compress, prefill
from autotc.errors import UnsupportedError
from autotc.policy import ModelRef, Policy, Stage
from autotc.processing import load_model
from tests.evaluate_fixtures import internvl_folder, llava_folder, picture, qwen3_folder, qwen_folder

FOLDERS = [qwen_folder, qwen3_folder, llava_folder, internvl_folder]
SIZES = [(84, 84), (56, 98), (42, 42), (70, 56)]  # 36, 28, 9 and 20 tokens on the tiny Qwen
TILES = [5, 3, 1, 1]  # on the tiny InternVL: 2 x 2, 1 x 2, each with a thumbnail
QUESTIONS = ["what is left ?", "colour of the right half ?", "right ?", "what colour is the left half ?"]


def policy_of(model: Any, *stages: Stage) -> Policy:
    numbers = anatomy(model)
    reference = ModelRef(
        family=numbers.family, decoder_layers=numbers.decoder.layers, vision_blocks=numbers.vision.blocks
    )
    return Policy(model=reference, stages=stages, status="verified")


def stock_logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's own modules, called in turn; CLIP's position embeddings interpolated."""
    core = model.model
    with torch.no_grad():
        if model.config.model_type != "llava":
            out = model.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            return out.logits[0]
        tower = core.vision_tower(
            inputs["pixel_values"], interpolate_pos_encoding=True, output_hidden_states=True
        )
        features = core.multi_modal_projector(tower.hidden_states[-2][:, 1:])
        embeds = core.language_model.embed_tokens(inputs["input_ids"])
        where = (inputs["input_ids"] == model.config.image_token_id)[..., None]
        embeds = embeds.masked_scatter(where, features)
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        out = core.language_model(
            inputs_embeds=embeds, attention_mask=inputs["attention_mask"], position_ids=positions
        )
        return model.lm_head(out.last_hidden_state[:, -1])


def resized_by_hand(
    model: Any, processor: Any, images: list[Image.Image], tokens: list[tuple[int, int]]
) -> Any:
    """The stock processor's inputs for images with the given (rows, columns) of tokens."""
    prompts = [processor.prompt(q) for q in QUESTIONS]
    if model.config.model_type == "internvl":
        side = 8 * tokens[0][0]
        canvases = [(2, 2), (1, 2), (1, 1), (1, 1)]
        smaller = [
            i.resize((side * c, side * r), Image.Resampling.BICUBIC)
            for i, (c, r) in zip(images, canvases, strict=True)
        ]
        return processor(images=smaller, text=prompts, size={"height": side, "width": side})
    if model.config.model_type == "llava":
        side = 8 * tokens[0][0]
        return processor(
            images=images,
            text=prompts,
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
        )
    smaller = [
        i.resize((14 * c, 14 * r), Image.Resampling.BICUBIC) for i, (r, c) in zip(images, tokens, strict=True)
    ]
    return processor(images=smaller, text=prompts)


@pytest.mark.parametrize("folder", FOLDERS)
def test_equals_the_stock_model_on_the_resized_image(folder: Callable[[], Path]) -> None:
    model, processor = load_model(folder())
    images = [picture(i, *size) for i, size in enumerate(SIZES)]
    rule = anatomy(model).image
    grids = [rule.grid(*size) for size in SIZES]
    tokens = [rule.within(g, max(1, int(0.5 * g[0] * g[1] + 0.5))) for g in grids]
    expected = resized_by_hand(model, processor, images, tokens)
    prompts = [processor.prompt(q) for q in QUESTIONS]
    cls = type(processor)
    stages = Stage(site="input", reducer="downsample", keep=0.5)
    with compress(model, policy_of(model, stages), processor) as compression:
        made = processor(images=images, text=prompts)
        for name in expected:
            assert torch.equal(made[name], expected[name]), name
        with torch.no_grad():
            out = model.generate(
                **made, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        times = TILES if model.config.model_type == "internvl" else [1] * len(SIZES)
        kept = [r * c for (r, c), n in zip(tokens, times, strict=True) for _ in range(n)]
        assert [int(k) for k in compression.trace[0]["kept"]] == kept
        asked = [
            max(1, int(0.5 * r * c + 0.5)) for (r, c), n in zip(grids, times, strict=True) for _ in range(n)
        ]
        assert compression.trace[0]["asked"].tolist() == asked
    assert (out.logits[0] - stock_logits(model, expected)).abs().max() < 1e-5
    assert type(processor) is cls, "the processor is as it was"


@pytest.mark.parametrize("folder", FOLDERS)
def test_later_stages_count_from_the_original_image(folder: Callable[[], Path]) -> None:
    model, processor = load_model(folder())
    images = [picture(i, *size) for i, size in enumerate(SIZES)]
    prompts = [processor.prompt(q) for q in QUESTIONS]
    stages = (
        Stage(site="input", reducer="downsample", keep=0.6),
        Stage(site="vision", layer=1, reducer="random", keep=0.45),
        Stage(site="projector", reducer="random", keep=0.3),
    )
    rule = anatomy(model).image
    original = [rows * columns for size in SIZES for rows, columns in rule.views(*size).grids]
    with compress(model, policy_of(model, *stages), processor) as compression:
        made = processor(images=images, text=prompts)
        with torch.no_grad():
            first = model.generate(
                **made, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        kept = compression.trace[-1]["kept"].tolist()
        assert kept == [max(1, int(0.3 * n + 0.5)) for n in original]
        assert compression.trace[1]["kept"].tolist() == [max(1, int(0.45 * n + 0.5)) for n in original]
        given = prefill(compression, made, original=original)
        assert torch.equal(given.logits, first.logits[0])
        assert len(compression.kept[0]) == kept[0]


def test_inputs_that_were_not_resized_are_refused() -> None:
    model, processor = load_model(qwen_folder())
    inputs = processor.inputs([[picture(0)]], QUESTIONS[:1])
    policy = policy_of(model, Stage(site="input", reducer="downsample", keep=0.5))
    with pytest.raises(UnsupportedError, match="processor"):
        compress(model, policy)
    with compress(model, policy, processor), pytest.raises(UnsupportedError, match="wrapped processor"):
        model.generate(**inputs, max_new_tokens=1)


def test_equal_prompts_are_told_apart_by_their_place_or_refused() -> None:
    model, processor = load_model(qwen_folder())
    policy = policy_of(model, Stage(site="input", reducer="downsample", keep=0.25))
    pictures = [[picture(0, 84, 84)], [picture(1, 84, 98)]]  # 36 and 42 tokens, both shown with 9
    with compress(model, policy, processor) as compression:
        made = processor(images=pictures, text=[processor.prompt("right ?")] * 2)
        model.generate(**made, max_new_tokens=1, num_beams=2, do_sample=False)
        assert compression.trace[0]["asked"].tolist() == [9, 9, 11, 11]
        half = {k: v[:1] for k, v in made.items() if k != "pixel_values"}
        half["pixel_values"] = made["pixel_values"][: int(made["image_grid_thw"][0].prod())]
        with pytest.raises(UnsupportedError, match="told apart"):
            model.generate(**half, max_new_tokens=1)
