"""The shipped folders are plain Hugging Face: Auto classes, prompt by template, generate."""

from __future__ import annotations

import warnings

import pytest
import torch
from PIL import Image

from autotc.processing import load_model
from autotc.proxies import folder, llava, names
from autotc.proxies import vocabulary as v
from autotc.proxies.pruning import WatchingLlava
from autotc.proxies.watch_clip import on_thing
from autotc.tasks.scenes import draw_scene

CLASSES = {
    "llava-tiny": ("LlavaForConditionalGeneration", 16, 14.2e6),
    "qwen2_5_vl-tiny": ("Qwen2_5_VLForConditionalGeneration", 14, 12e6),
}


@pytest.fixture(scope="module", params=sorted(CLASSES))
def shipped(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return request.param, *load_model(folder(request.param))


def test_it_answers_through_generate(shipped):
    _, model, processor = shipped
    right = total = 0
    for seed in range(4):
        scene = draw_scene(seed, digits="test")
        for question in scene.questions:
            inputs = processor.inputs([[Image.fromarray(scene.image)]], [question.text])
            out = model.generate(**inputs, max_new_tokens=6)
            said = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            right += said.strip() == question.answer
            total += 1
    assert right / total > 0.85


def test_it_is_what_the_package_may_carry(shipped):
    name, model, processor = shipped
    kind, layers, most = CLASSES[name]
    assert sum(file.stat().st_size for file in folder(name).rglob("*") if file.is_file()) < most
    assert model.config.text_config.num_hidden_layers == layers
    assert type(model).__name__ == kind
    assert len(processor.tokenizer) == len(v.WORDS) == model.config.text_config.vocab_size
    inputs = processor.inputs([[Image.new("RGB", (168, 168))]], ["what digit is red ?"])
    assert (inputs["input_ids"] == v.IMAGE).sum() == 144


@torch.no_grad()
def test_the_text_encoder_finds_what_a_question_speaks_of():
    path = folder("llava-tiny")
    model, _ = load_model(path)
    forward = WatchingLlava(model, llava.load_text(path))
    found = total = 0
    for seed in range(20):
        scene = draw_scene(seed, digits="test")
        unique = [t for t in scene.things if sum(o.name == t.name for o in scene.things) == 1]
        questions = [f"where is the {thing.name} ?" for thing in unique]
        images = torch.from_numpy(scene.image).expand(len(unique), -1, -1, -1)
        _, scores = forward.look(images, questions)
        best = scores["clip_text"].argmax(-1)
        found += sum(bool(on_thing(thing)[k]) for thing, k in zip(unique, best, strict=True))
        total += len(unique)
    assert found / total > 0.7


def test_an_unknown_proxy_is_refused():
    assert set(names()) == set(CLASSES)
    with pytest.raises(FileNotFoundError, match="known: llava-tiny, qwen2_5_vl-tiny"):
        folder("qwen2_5_vl-huge")
