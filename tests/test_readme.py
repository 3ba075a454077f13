"""The README keeps its word: its snippet runs, its files exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotc.adapter import resolve_model
from autotc.policy import ModelRef, Policy, Stage
from autotc.processing import load_model
from autotc.proxies import proxy_folder

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:autotc. this policy is unverified")
def test_the_snippet_runs_on_the_proxy(tmp_path, monkeypatch):
    folder = proxy_folder("qwen2_5_vl")
    assert folder is not None
    anatomy = resolve_model(str(folder)).anatomy
    policy = Policy(
        model=ModelRef(
            family=anatomy.family,
            id=anatomy.id,
            decoder_layers=anatomy.decoder.layers,
            vision_blocks=anatomy.vision.blocks,
        ),
        stages=(
            Stage(site="projector", reducer="divprune", keep=0.5),
            Stage(site="decoder", layer=4, reducer="fastv", keep=0.2),
        ),
    )
    monkeypatch.chdir(tmp_path)
    Path("policy.json").write_text(policy.json_text(), encoding="utf-8")
    model, processor = load_model(folder)
    pixels = np.random.default_rng(0).integers(0, 255, (168, 168, 3), dtype=np.uint8)
    inputs = processor.inputs([[Image.fromarray(pixels)]], ["what color is the star ?"])
    snippet = re.search(r"```python\n(.*?)```", README, re.S)
    assert snippet is not None
    names: dict = {"model": model, "inputs": inputs}
    exec(snippet.group(1), names)
    prompt = inputs["input_ids"].shape[1]
    assert names["output"].shape[1] > prompt
    assert torch.equal(names["output"][:, :prompt], inputs["input_ids"])
    assert not hasattr(model, "_autotc_compression")


def test_every_file_it_points_to_exists():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert missing == []
