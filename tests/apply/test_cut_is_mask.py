"""Cut tokens equal masked tokens: prompts of uneven lengths, several images, uneven counts, every later
step.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from autotc.apply import compress, prefill, score
from tests.apply import tiny
from tests.apply.fake_reducers import fakes  # noqa: F401
from tests.apply.reference import kept_by_stage, last_residual, masked

PLANS: dict[str, list[dict[str, Any]]] = {
    "projector": [{"site": "projector", "reducer": "uneven", "keep": 0.5}],
    "decoder-1": [{"site": "decoder", "layer": 1, "reducer": "uneven", "keep": 0.4}],
    "decoder-3": [
        {"site": "decoder", "layer": 1, "reducer": "uneven", "keep": 0.8},
        {"site": "decoder", "layer": 3, "reducer": "uneven", "keep": 0.5},
        {"site": "decoder", "layer": 5, "reducer": "withdraw", "keep": 0.0},
    ],
    "projector-decoder": [
        {"site": "projector", "reducer": "uneven", "keep": 0.7},
        {"site": "decoder", "layer": 4, "reducer": "uneven", "keep": 0.2},
    ],
    "vision": [
        {"site": "vision", "layer": 1, "reducer": "uneven", "keep": 0.8},
        {"site": "vision", "layer": 3, "reducer": "uneven", "keep": 0.5},
    ],
    "all": [
        {"site": "vision", "layer": 2, "reducer": "uneven", "keep": 0.9},
        {"site": "projector", "reducer": "uneven", "keep": 0.6},
        {"site": "decoder", "layer": 2, "reducer": "uneven", "keep": 0.3},
    ],
}


def counts(compression: Any) -> list[int]:
    return [t * h * w for t, h, w in compression.decoder.run.prompt.images.grids]


def wrong_by_one(kept: dict[int, list[list[int]]], total: list[int]) -> dict[int, list[list[int]]]:
    """The same decisions, but the first image's first dropped token stays."""
    gone = min(set(range(total[0])) - set(kept[max(kept)][0]))
    return {
        i: [sorted({*mine, gone}) if n == 0 else mine for n, mine in enumerate(k)] for i, k in kept.items()
    }


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("kind", "name"), tiny.cases(PLANS))
def test_prefill_in_float64(kind: str, name: str) -> None:
    model = tiny.model(kind, torch.float64)
    inputs = tiny.batch(kind, torch.float64, several=True)
    policy = tiny.policy(model, *PLANS[name])
    with compress(model, policy) as compression, last_residual(model) as cut:
        prefill(compression, inputs)
        total = counts(compression)
        kept = kept_by_stage(compression, total)
        lengths = {
            layout.valid.sum(1).unique().numel() for layout in compression.decoder.run.layouts.values()
        }
    assert max(lengths) > 1, "the batch must be uneven"
    with torch.no_grad(), last_residual(model) as seen:
        with masked(model, policy, kept, inputs, total):
            prefill_stock(model, inputs)
        with masked(model, policy, wrong_by_one(kept, total), inputs, total):
            prefill_stock(model, inputs)
    assert (cut[0] - seen[0]).abs().max() < 1e-10
    assert (cut[0][0] - seen[1][0]).abs().max() > 1e-4, "the test must notice one token"


def prefill_stock(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """One prefill with the positions that generate gives."""
    model.generate(**inputs, max_new_tokens=1, do_sample=False)


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("projector", {}),
    ("decoder-3", {}),
    ("all", {}),
    ("projector-decoder", {"use_cache": False}),
    ("all", {"use_cache": False}),
    ("decoder-1", {"num_beams": 3}),
    ("all", {"num_beams": 2}),
    ("all", {"attention": "eager"}),
]


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize(("name", "options"), RUNS)
def test_generate(kind: str, name: str, options: dict[str, Any]) -> None:
    options = dict(options)
    model = tiny.model(kind, attention=options.pop("attention", "sdpa"))
    # before 5.23 transformers mixed up the images of a prompt that beams repeat
    mixed = "num_beams" in options and tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23)
    inputs = tiny.batch(kind, several=not mixed)
    policy = tiny.policy(model, *tiny.possible(kind, PLANS[name]))
    asked = {
        "max_new_tokens": 5,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
        "eos_token_id": None,
        "suppress_tokens": [tiny.IMAGE],  # a random model may write one, and has no features for it
        **options,
    }
    with compress(model, policy) as compression, torch.no_grad():
        state = prefill(compression, inputs)
        total = counts(compression)
        kept = kept_by_stage(compression, total)
        mine = model.generate(**inputs, **asked)
        if not options:
            scored = score(compression, state, mine.sequences[:, inputs["input_ids"].shape[1] :])
            assert (scored - torch.stack(mine.logits, 1)).abs().max() < 5e-5
    with torch.no_grad(), masked(model, policy, kept, inputs, total):
        theirs = model.generate(**inputs, **asked)
    assert torch.equal(mine.sequences, theirs.sequences)
    for step, (a, b) in enumerate(zip(mine.logits, theirs.logits, strict=True)):
        assert (a - b).abs().max() < 5e-5, f"step {step}"
