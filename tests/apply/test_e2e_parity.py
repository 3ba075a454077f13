"""End to end against the authors' own repositories: kept tokens, prefill logits, four cached decode steps."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from autotc.adapter import anatomy
from autotc.apply import capture, compress, prefill, resume, score
from autotc.policy import ModelRef, Policy, Stage
from tests.reducers.golden_cases import FOLDER

SITES = {"fastv": "decoder", "pyramiddrop": "decoder", "divprune": "projector"}
POSITIONS = {"fastv": "original", "pyramiddrop": "compact", "divprune": "compact"}
CASES = [
    (method, folder)
    for method in SITES
    for folder in sorted((FOLDER / "e2e" / method).glob("*/"))
    if folder.is_dir()
]


@functools.cache
def built() -> Any:
    from safetensors.torch import load_file

    folder = FOLDER / "e2e" / "weights"
    config = LlavaConfig(**json.loads((folder / "config.json").read_text()))
    weights = load_file(folder / "weights.safetensors")
    return LlavaForConditionalGeneration.from_pretrained(None, config=config, state_dict=weights).eval()


@functools.cache
def prefix(folder: Path) -> Any:
    return capture(built(), inputs(folder))


def inputs(folder: Path) -> dict[str, torch.Tensor]:
    with np.load(folder / "inputs.npz") as arrays:
        tensors = {k: torch.from_numpy(arrays[k]) for k in ("pixel_values", "input_ids", "attention_mask")}
    tensors["pixel_values"] = tensors["pixel_values"].float()
    return {k: v.long() if k != "pixel_values" else v for k, v in tensors.items()}


def policy(method: str, case: dict[str, Any], positions: str | None = None) -> Policy:
    numbers = anatomy(built())
    stages = [
        Stage(
            site=SITES[method],
            layer=cut.get("before_layer_index"),
            reducer=method,
            keep=cut["keep"] / case.get("visual_count", 576),
        )
        for cut in case["cuts"]
    ]
    model = ModelRef(
        family="llava", decoder_layers=numbers.decoder.layers, vision_blocks=numbers.vision.blocks
    )
    return Policy(
        model=model, positions=positions or POSITIONS[method], stages=tuple(stages), status="verified"
    )


def kept_after(state: Any, stages: tuple[Stage, ...]) -> list[list[int]]:
    """The original indices left after each stage, from the layouts that layers saw."""
    out = []
    for stage in stages:
        images = state.run.layouts[stage.layer or 0].images
        out.append(images.source[0][images.valid[0]].tolist())
    return out


@pytest.mark.parametrize(("method", "folder"), CASES, ids=[f"{m}-{f.name}" for m, f in CASES])
def test_authors_runs_are_reproduced(method: str, folder: Path) -> None:
    case = json.loads((folder / "case.json").read_text())
    expected = {k: torch.from_numpy(v) for k, v in np.load(folder / "expected.npz").items()}
    given = inputs(folder)
    model, chosen = built(), policy(method, case)
    stock = prefix(folder)
    assert (stock.logits[0] - expected["unpruned_logits_last"]).abs().max() < 1e-4
    tokens = expected["pruned_tokens"][None].long()
    with compress(model, chosen) as compression, torch.no_grad():
        state = prefill(compression, given)
        for i, kept in enumerate(kept_after(state, chosen.stages)):
            assert kept == sorted(expected[f"kept_{i}"].tolist())
        assert (state.logits[0] - expected["pruned_logits_last"]).abs().max() < 1e-4
        scored = score(compression, state, tokens)
        assert (scored[0, 1:] - expected["pruned_step_logits"]).abs().max() < 1e-4
        again = resume(compression, stock)
        assert torch.equal(again.logits, state.logits)
        # a hand-written loop that passes no positions, one token a call
        cache, mask = state.cache, given["attention_mask"]
        compression.decoder.run = state.run
        for step in range(4):
            mask = torch.cat([mask, mask.new_ones(1, 1)], 1)
            out = model(input_ids=tokens[:, step : step + 1], attention_mask=mask, past_key_values=cache)
            assert (out.logits[0, -1] - expected["pruned_step_logits"][step]).abs().max() < 1e-4
        # generate, greedy
        written = model.generate(
            **given, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        assert written.sequences[0, -5:].tolist() == expected["pruned_tokens"].tolist()
        steps = torch.stack([step[0] for step in written.logits])
        assert (steps[1:] - expected["pruned_step_logits"]).abs().max() < 1e-4


@pytest.mark.parametrize("method", sorted(SITES))
def test_the_other_convention_fails_parity(method: str) -> None:
    """Positions matter: with the wrong convention the decode steps are far off (the first prompt pass may
    agree).
    """
    mine = [folder for name, folder in CASES if name == method]
    if not mine:
        pytest.skip("no case of this method in the golden folder")
    case = json.loads((mine[0] / "case.json").read_text())
    expected = {k: torch.from_numpy(v) for k, v in np.load(mine[0] / "expected.npz").items()}
    wrong = "compact" if POSITIONS[method] == "original" else "original"
    stock = prefix(mine[0])
    with compress(built(), policy(method, case, wrong)) as compression:
        state = resume(compression, stock)
        scored = score(compression, state, expected["pruned_tokens"][None].long())
    assert (scored[0, 1:] - expected["pruned_step_logits"]).abs().max() > 0.01
