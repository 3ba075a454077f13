"""llava-tiny: the training's forward equals Hugging Face's, texts are true, and a run goes through."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from autotc.proxies import captions, data, llava, train_llava
from autotc.proxies import vocabulary as v
from autotc.proxies.llava_forward import LlavaForward
from autotc.proxies.pointing import answered_by, asked_about, color_loss, pointing_loss
from autotc.proxies.runner import Options, launch
from autotc.proxies.train_llava import LlavaTrainer, caption_loss, phrase_loss
from autotc.proxies.watch_clip import on_things

SIZES = {"layers": 3, "width": 64, "heads": 2, "tower_width": 64, "blocks": 3, "text_width": 64}


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model, clip = llava.build(**SIZES)
    return model.eval(), clip.eval()


@pytest.mark.parametrize("size", [168, 112])
@torch.no_grad()
def test_packed_forward_equals_hugging_face(tiny, size):
    model, _ = tiny
    forward = LlavaForward(model)
    batch = data.make_batch(range(2), "test", size)
    pixels = ((batch.images.float() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)
    seen = model.model.vision_tower(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    states = forward.states(batch.images)
    for ours, theirs in zip(states, seen.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=1e-4)
    if size != 168:
        return
    logits = forward.logits(forward.read(forward.see(batch.images), 12, batch.tokens, None)[0])
    head = [*v.encode(v.PREFIX), *[v.IMAGE] * 144, v.VISION_END]
    for question in range(3):
        ids = torch.cat((torch.tensor([head] * 2), batch.tokens[:, question]), 1)
        out = model(input_ids=ids, pixel_values=pixels).logits
        torch.testing.assert_close(logits[:, question], out[:, -data.BLOCK :], atol=5e-6, rtol=1e-4)


@torch.no_grad()
def test_the_clip_half_equals_hugging_face_and_survives_its_folder(tiny, tmp_path):
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    model, clip = tiny
    texts = ["where is the star ?", "is there a red circle ?", "box 4 7 1"]
    ids = torch.tensor([captions.ids(text, captions.SHORT) for text in texts])
    forward = LlavaForward(model)
    ours = forward.clip_texts(clip, ids)
    torch.testing.assert_close(ours, F.normalize(clip.model(input_ids=ids).text_embeds, dim=-1))

    llava.export(model, clip, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "text_encoder")
    again = CLIPTextModelWithProjection.from_pretrained(tmp_path / "text_encoder", dtype=torch.float32)
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    theirs = F.normalize(again(**inputs).text_embeds, dim=-1)
    assert (ours * theirs).sum(-1).min() > 0.999  # fp16 lies between
    back = llava.load_text(tmp_path)
    torch.testing.assert_close(
        back.visual_projection.weight, clip.visual_projection.weight.half().float(), atol=0, rtol=0
    )
    assert tokenizer("a " * 40, truncation=True)["input_ids"][-1] == v.PAD


def test_texts_say_what_is_there_and_the_wrong_caption_one_word_otherwise():
    scenes = data.draw(range(40), "train")
    texts = captions.write(scenes, 3)
    again = captions.write(scenes, 3)
    assert torch.equal(texts.captions, again.captions) and torch.equal(texts.holds, again.holds)
    assert ((texts.captions != texts.wrong).sum(1) == 1).all()
    own = torch.arange(len(texts.phrases)) // captions.PHRASES
    assert texts.holds[torch.arange(len(own)), own].all()
    assert 0.02 < texts.holds.float().mean() < 0.6
    for row, scene in zip(texts.captions.tolist(), scenes, strict=True):
        words = [v.WORDS[i] for i in row[1 : row.index(v.PAD)]]
        for part in " ".join(words).split(" , "):
            if part.startswith("box"):
                assert scene.tag is not None and part.split()[1:] == list(scene.tag.digits)
            else:
                color, name, _ = part.split()
                assert any(t.color == color and t.name == name for t in scene.things)
    rng = np.random.default_rng(0)
    longest = max(len(captions.phrase(rng, s)[0].split()) for s in scenes for _ in range(60))
    assert longest + 2 <= captions.SHORT
    with pytest.raises(ValueError, match="at most 4 fit"):
        captions.ids("where is the star ?", 4)


def test_every_question_fits_the_text_encoder():
    asked = {q.text for s in data.draw(range(100), "test") for q in s.questions}
    assert all(len(captions.ids(text, captions.SHORT)) == captions.SHORT for text in asked)


def test_losses_are_least_where_they_should_be():
    eye = torch.eye(3)
    assert caption_loss(20 * torch.cat((eye, -eye), 1)) < 1e-3 < caption_loss(torch.zeros(3, 6))
    patches = -eye[:, None].expand(3, 5, 3)  # far from the own phrase: the sign is turned
    scale = torch.tensor(20.0)
    nowhere = torch.zeros(3, 3, dtype=torch.bool)
    assert phrase_loss(patches, eye, nowhere | eye.bool(), scale) < 1e-3
    assert phrase_loss(-patches, eye, nowhere | eye.bool(), scale) > 1
    # An image of which the phrase holds too is no negative.
    assert phrase_loss(-patches, eye, ~nowhere, scale) < 1e-3


def test_things_cover_some_patches():
    shares = torch.stack([on_things(scene) for scene in data.draw(range(20), "test")]).float().mean(-1)
    assert 0.05 < shares.mean() < 0.3


def test_both_parts_train_and_the_tower_is_frozen_in_the_second(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stages = tuple(
        replace(s, views=tuple(replace(view, batch=3) for view in s.views)) for s in train_llava.STAGES
    )
    monkeypatch.setattr(train_llava, "STAGES", stages)
    options = Options(tmp_path, steps=10, processes=1, compile=False, sizes=SIZES, validate_every=1e9)
    trainer = LlavaTrainer(options)
    start = {name: p.clone() for name, p in trainer.model.named_parameters()}
    for _ in range(4):
        trainer.train_step()
    assert set(trainer.look()) > {"retrieval", "names", "cls_feature", "phrase_top"}
    trainer.save()
    middle = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trained = {name for name, p in middle.items() if not torch.equal(p, start[name])}
    assert any("class_embedding" in name for name in trained)
    assert not any("language_model" in name or "projector" in name for name in trained)

    launch(LlavaTrainer, replace(options, resume=True))
    torch.set_num_threads(threads)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    after = {name for name, p in middle.items() if not torch.equal(p, state["model"][name])}
    assert after and not any("vision_tower" in name for name in after)
    lines = [json.loads(line) for line in (tmp_path / "train.log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 10 and "accuracy_168" in lines[-1]
    assert (tmp_path / "model" / "text_encoder" / "visual_projection.safetensors").is_file()


def test_questions_are_about_the_right_things():
    seen = set()
    for scene in data.draw(range(60), "train"):
        for question in scene.questions:
            about = asked_about(question, scene)
            seen.add(question.group)
            if question.group in ("digit_by_color", "shape_by_color"):
                assert [t.name for t in about] == [question.answer]
            elif question.group in ("color_of_digit", "color_of_shape"):
                assert [t.color for t in about] == [question.answer]
            elif question.group == "exist":
                assert bool(about) == (question.answer == "yes")
            elif question.group == "relation":
                assert [t.name for t in answered_by(question, scene)] == [question.answer]
            elif question.group != "where":
                assert about == []
    assert len(seen) == 10


def test_pointing_is_the_attention_of_the_first_head(tiny):
    model, _ = tiny
    forward = LlavaForward(model)
    forward.middle = (0, 1)
    scenes = data.draw(range(2), "train")
    batch = data.pack(scenes)
    forward.read(forward.see(batch.images), batch.rows, batch.tokens, None)
    asking = (batch.targets != data.IGNORE).int().argmax(-1)
    share = forward.point(0, 12, 12, asking).exp().sum(-1)
    assert ((share > 0) & (share < 1)).all()
    loss = pointing_loss(forward, scenes, batch) + color_loss(forward, scenes, batch)
    loss.backward()
    grads = [layer.self_attn.k_proj.weight.grad for layer in model.model.language_model.layers]
    assert grads[0][:32].abs().sum() > 0 and grads[1][:32].abs().sum() > 0 and grads[2] is None
    model.zero_grad()
