"""Anatomy from configs: aliases, folders, built models; the number of parameters equals the built
module's.
"""

import json

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

from autotc.adapter import adapters, anatomy, known_aliases, resolve_model
from autotc.errors import ModelError

CASES = [(alias, entry) for cls in adapters.all() for alias, entry in cls.aliases.items()]


@pytest.mark.parametrize(("alias", "entry"), CASES, ids=[alias for alias, _ in CASES])
def test_parameters_equal_the_built_model(alias, entry):
    config = CONFIG_MAPPING[entry["config"]["model_type"]].from_dict(entry["config"])
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert anatomy(alias).parameters == sum(p.numel() for p in set(model.parameters()))


@pytest.mark.parametrize(
    ("alias", "billions"),
    [("qwen2.5-vl", 8.292), ("qwen2.5-vl-3b", 3.755), ("qwen2-vl-7b", 8.291), ("llava-1.5-7b", 7.063)],
)
def test_parameters_are_those_of_the_published_checkpoints(alias, billions):
    assert anatomy(alias).parameters / 1e9 == pytest.approx(billions, abs=5e-4)


def test_tokens_of_an_image():
    assert anatomy("qwen2.5-vl").visual_tokens(672, 672) == 576
    assert anatomy("llava-1.5-7b").visual_tokens(1000, 300) == 576


def test_alias_config_dict_config_and_folder_agree(tmp_path):
    entry = dict(CASES)["qwen2.5-vl-3b"]
    config = CONFIG_MAPPING["qwen2_5_vl"].from_dict(entry["config"])
    config.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 784, "max_pixels": 7840}))
    by_alias, by_config, by_folder = anatomy("qwen2.5-vl-3b"), anatomy(config), anatomy(tmp_path)
    assert by_alias.decoder == by_config.decoder == by_folder.decoder
    assert by_alias.vision == by_config.vision == by_folder.vision
    assert (by_folder.image.min_pixels, by_folder.image.max_pixels) == (784, 7840)
    assert anatomy(json.loads((tmp_path / "config.json").read_text())).parameters == by_alias.parameters
    source = resolve_model(str(tmp_path))
    assert source.folder == tmp_path and not source.weights and source.family == "qwen2_5_vl"


def test_old_flat_config_file_is_read():
    entry = dict(CASES)["qwen2-vl-7b"]["config"]
    flat = {**entry["text_config"], **{k: v for k, v in entry.items() if k != "text_config"}}
    assert anatomy(flat).decoder == anatomy("qwen2-vl-7b").decoder


def test_the_package_s_anatomy_is_callable_whatever_was_imported() -> None:
    import autotc
    import autotc.anatomy
    import autotc.apply

    assert autotc.anatomy("llava-1.5-7b") == anatomy("llava-1.5-7b")  # type: ignore[operator]


def test_unknown_models_name_the_nearest():
    with pytest.raises(ModelError, match=r"qwen2\.5-vl"):
        resolve_model("qwen25-vl")
    with pytest.raises(ModelError, match="--download"):
        resolve_model("nobody/no-such-model")
    with pytest.raises(ModelError, match="model_type 'bert'"):
        anatomy({"model_type": "bert"})
    assert "llava-1.5-13b" in known_aliases()
