"""The processor built from image processor and tokenizer: equal tensors to the full one, and its errors."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from autotc.errors import DataError, ModelError
from autotc.processing import Processor, load_model, load_processor
from tests.evaluate_fixtures import internvl_folder, llava_folder, picture, qwen3_folder, qwen_folder

SIZES = [[(84, 84)], [(56, 98), (42, 42)], [(70, 56)]]
QUESTIONS = ["what is left ?", "colour of the right half ?", "right ?"]


def images() -> list[list[Any]]:
    return [[picture(i, *size) for i, size in enumerate(row)] for row in SIZES]


def full_qwen(ours: Processor, name: str = "Qwen2_5_VLProcessor") -> Any:
    """transformers' own processor around the same parts; its constructor alone wants a video processor."""
    import transformers

    cls = getattr(transformers, name)
    full = cls.__new__(cls)
    full.image_processor, full.tokenizer, full.video_processor = ours.image_processor, ours.tokenizer, None
    full.chat_template = ours.chat_template
    full.image_token, full.image_token_id = ours.image_token, ours.image_token_id
    full.video_token, full.video_token_id = "<video>", 7
    return full


def full_llava(ours: Processor) -> Any:
    from transformers import LlavaProcessor

    return LlavaProcessor(
        ours.image_processor,
        ours.tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=ours.chat_template,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def full_qwen3(ours: Processor) -> Any:
    return full_qwen(ours, "Qwen3VLProcessor")


def full_internvl(ours: Processor) -> Any:
    from transformers import InternVLProcessor

    full = full_qwen(ours, "InternVLProcessor")
    full.image_seq_length, full.start_image_token, full.end_image_token = 36, "<vs>", "<ve>"
    full.multimodal_pattern = re.compile("(?P<image><image>)|(?P<video><video>)")
    assert isinstance(full, InternVLProcessor)
    return full


@pytest.mark.parametrize(
    ("folder", "full"),
    [
        (qwen_folder, full_qwen),
        (qwen3_folder, full_qwen3),
        (llava_folder, full_llava),
        (internvl_folder, full_internvl),
    ],
)
def test_tensors_equal_the_full_processor_s(folder: Any, full: Any) -> None:
    ours = load_processor(folder())
    prompts = [ours.prompt(q, len(row)) for q, row in zip(QUESTIONS, SIZES, strict=True)]
    theirs = full(ours)
    expected = theirs(
        images=[p for row in images() for p in row], text=list(prompts), padding=True, return_tensors="pt"
    )
    found = ours(images=images(), text=prompts)
    assert set(expected) == set(found)
    for name in expected:
        assert torch.equal(torch.as_tensor(expected[name]), found[name]), name
    content = [{"type": "image"}, {"type": "text", "text": "left ?"}]
    message = [{"role": "user", "content": content}]
    assert theirs.apply_chat_template(message, add_generation_prompt=True) == ours.prompt("left ?")


def test_qwen_inputs_have_one_placeholder_a_token_and_pad_on_the_left() -> None:
    ours = load_processor(qwen_folder())
    data = ours.inputs(images(), QUESTIONS)
    tokens = (data["image_grid_thw"].prod(-1) // 4).tolist()
    assert tokens == [36, 28, 9, 20] == ours.image_tokens(data)
    counts = (data["input_ids"] == ours.image_token_id).sum(1).tolist()
    assert counts == [36, 37, 20]
    assert torch.equal(data["mm_token_type_ids"] == 1, data["input_ids"] == ours.image_token_id)
    lengths = data["attention_mask"].sum(1)
    for row, length in zip(data["attention_mask"], lengths, strict=True):
        assert row[-length:].all() and not row[: len(row) - length].any()


def test_internvl_counts_follow_tiles_and_pixels() -> None:
    from autotc.adapter import anatomy

    model, ours = load_model(internvl_folder())
    data = ours.inputs(images(), QUESTIONS)
    rule = anatomy(model).image
    assert rule.cut == 4, "as the image processor's file says"
    tokens = [sum(rule.views(*size).tokens for size in row) for row in SIZES]
    assert (data["input_ids"] == ours.image_token_id).sum(1).tolist() == tokens == [36 * 5, 36 * 4, 36]
    assert len(data["pixel_values"]) == sum(tokens) // 36
    assert ours.image_tokens({"pixel_values": torch.zeros(4, 3, 24, 24), "num_patches": [1, 3]}) == [9, 27]
    with torch.inference_mode():
        assert torch.isfinite(model(**data).logits).all()


def test_marks_that_the_tokenizer_does_not_name_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(internvl_folder(), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for place in (
        settings,
        settings.get("extra_special_tokens"),
        settings.get("model_specific_special_tokens"),
    ):
        if isinstance(place, dict):
            place.pop("end_image_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="names no 'end_image_token'"):
        load_processor(folder)


def test_llava_counts_follow_the_pixels() -> None:
    ours = load_processor(llava_folder())
    assert ours.image_tokens({"pixel_values": torch.zeros(2, 3, 48, 48)}) == [36, 36]
    assert ours.image_tokens({"pixel_values": torch.zeros(1, 3, 24, 40)}) == [15]


def test_the_chat_template_can_give_inputs_and_text_alone_works() -> None:
    ours = load_processor(qwen_folder())
    message = [
        {
            "role": "user",
            "content": [{"type": "image", "image": picture(3)}, {"type": "text", "text": "what is left ?"}],
        }
    ]
    data = ours.apply_chat_template(message, tokenize=True, add_generation_prompt=True)
    again = ours.inputs([[picture(3)]], ["what is left ?"])
    assert all(torch.equal(data[k], again[k]) for k in again) and set(data) == set(again)
    assert "pixel_values" not in ours(text=["user : what ? assistant :"])
    assert ours.decode(ours.answer_ids("red green")) == "red green </s>"


def test_a_wrong_number_of_placeholders_is_refused() -> None:
    ours = load_processor(qwen_folder())
    with pytest.raises(DataError, match="1 image placeholders '<image>' for 2 images"):
        ours(images=[picture(0), picture(1)], text=[ours.prompt("left ?", 1)])


def test_the_full_strategy_counts_clip_s_class_row() -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(llava_folder())
    config.vision_feature_select_strategy = "full"
    ours = load_processor(llava_folder(), config)
    assert ours.image_tokens({"pixel_values": torch.zeros(1, 3, 48, 48)}) == [37]


def test_load_model_runs_and_names_what_is_missing(tmp_path: Path) -> None:
    model, ours = load_model(llava_folder())
    with torch.inference_mode():
        out = model(**ours.inputs([[picture(1)]], ["left ?"]))
    assert out.logits.dtype == torch.float32 and not model.training
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path)
    for name, says in (
        ("model.safetensors", "weights"),
        ("tokenizer.json", "tokenizer"),
        ("preprocessor_config.json", "image processor"),
    ):
        broken = tmp_path / name
        shutil.copytree(llava_folder(), broken)
        (broken / name).unlink()
        with pytest.raises(ModelError, match=f"{says} .*cannot be loaded"):
            load_model(broken)


def test_a_folder_that_wants_its_own_code_is_refused(tmp_path: Path) -> None:
    config = json.loads((llava_folder() / "config.json").read_text())
    config["model_type"] = "homemade"
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('code of a model folder was run')")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path)


def test_a_template_may_stand_in_the_processor_s_files_or_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(qwen_folder(), folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_processor(folder).prompt("left ?") == "<image>\nleft ?\n"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_processor(folder).prompt("left ?") == "user : <vs> <image> <ve> left ? assistant :"
