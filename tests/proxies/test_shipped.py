"""The shipped folder is plain Hugging Face: Auto classes, prompt by template, generate."""

from __future__ import annotations

import warnings

import pytest
import torch
from PIL import Image

from autotc.proxies import folder, names
from autotc.proxies import vocabulary as v
from autotc.tasks.scenes import draw_scene


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    path = folder(names()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval(),
            AutoTokenizer.from_pretrained(path),
            AutoImageProcessor.from_pretrained(path),
        )


def ask(shipped, image, text: str) -> str:
    model, tokenizer, processor = shipped
    seen = processor(images=Image.fromarray(image), return_tensors="pt")
    count = int(seen["image_grid_thw"].prod()) // 4
    content = [{"type": "image"}, {"type": "text", "text": text}]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    prompt = prompt.replace("<|image_pad|>", "<|image_pad|> " * count)
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == v.IMAGE).int(),
        pixel_values=seen["pixel_values"],
        image_grid_thw=seen["image_grid_thw"],
        max_new_tokens=6,
    )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_it_answers_through_generate(shipped):
    right = total = 0
    for seed in range(4):
        scene = draw_scene(seed, digits="test")
        for question in scene.questions:
            right += ask(shipped, scene.image, question.text) == question.answer
            total += 1
    assert right / total > 0.85


def test_it_is_what_the_package_may_carry(shipped):
    model, tokenizer, processor = shipped
    path = folder(names()[0])
    assert sum(file.stat().st_size for file in path.iterdir()) < 12e6
    assert model.config.text_config.num_hidden_layers == 14
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert len(tokenizer) == len(v.WORDS) == model.config.text_config.vocab_size
    grid = processor(images=Image.new("RGB", (168, 168)), return_tensors="pt")["image_grid_thw"]
    assert grid.tolist() == [[1, 24, 24]]


def test_an_unknown_proxy_is_refused():
    with pytest.raises(FileNotFoundError, match="known: qwen2_5_vl-tiny"):
        folder("qwen2_5_vl-huge")
