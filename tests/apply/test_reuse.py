"""Many policies on one prefill: the same bits as from the pixels on, answers that can't reach decisions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autotc.adapter import family_of
from autotc.apply import capture, compress, prefill, resume, score
from tests.apply import tiny
from tests.apply.fake_reducers import fakes  # noqa: F401

PLANS: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "projector": [{"site": "projector", "reducer": "fastervlm", "keep": 0.4}],
    "projector-decoder": [
        {"site": "projector", "reducer": "visionzip", "keep": 0.7},
        {"site": "decoder", "layer": 3, "reducer": "fastv", "keep": 0.3},
    ],
    "decoder-1": [{"site": "decoder", "layer": 1, "reducer": "fastv", "keep": 0.5}],
    "decoder-3": [
        {"site": "decoder", "layer": 3, "reducer": "sparsevlm", "keep": 0.6},
        {"site": "decoder", "layer": 4, "reducer": "pyramiddrop", "keep": 0.3},
    ],
    "dart": [{"site": "decoder", "layer": 2, "reducer": "dart", "keep": 0.4}],
    "withdraw": [{"site": "decoder", "layer": 5, "reducer": "withdraw", "keep": 0.0}],
    "merging": [{"site": "decoder", "layer": 2, "reducer": "merging", "keep": 0.4}],
}
KINDS = [(kind, positions) for kind in tiny.KINDS for positions in ("original", "compact")]
SUPPORTED = [(k, p) for k, p in KINDS if p in family_of(k).positions]
ANSWER = torch.tensor([[9, 10, 11, 12], [20, 21, 22, 23], [30, 31, 32, 33]])


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("kind", "positions"), SUPPORTED)
def test_resume_equals_prefill_bit_for_bit(kind: str, positions: str) -> None:
    model, inputs = tiny.model(kind), tiny.batch(kind, several=True)
    prefix = capture(model, inputs)
    held = [layer.keys.clone() for layer in prefix.cache.layers]
    assert prefix.nbytes > 0
    for name, stages in PLANS.items():
        with compress(model, tiny.policy(model, *stages, positions=positions)) as compression:
            resumed = resume(compression, prefix)
            answers = score(compression, resumed, ANSWER)
            if not stages:
                assert torch.equal(resumed.logits, prefix.logits)
                continue
            whole = prefill(compression, inputs)
            assert torch.equal(resumed.logits, whole.logits), name
            # states live side by side: the first one can still be scored, and again
            assert torch.equal(score(compression, whole, ANSWER), answers), name
            assert torch.equal(score(compression, resumed, ANSWER), answers), name
            for mine, theirs in zip(resumed.trace, whole.trace, strict=True):
                assert torch.equal(mine["kept"], theirs["kept"])
            for mine, theirs in zip(resumed.cache.layers, whole.cache.layers, strict=True):
                assert torch.equal(mine.keys, theirs.keys) and torch.equal(mine.values, theirs.values)
    for layer, keys in zip(prefix.cache.layers, held, strict=True):
        assert torch.equal(layer.keys, keys), "a policy wrote into the captured cache"


@pytest.mark.parametrize(("kind", "positions"), SUPPORTED)
def test_an_answer_in_one_chunk_equals_one_token_at_a_time(kind: str, positions: str) -> None:
    model = tiny.model(kind, torch.float64)
    inputs = tiny.batch(kind, torch.float64, several=True)
    stages = PLANS["projector-decoder"]
    with compress(model, tiny.policy(model, *stages, positions=positions)) as compression, torch.no_grad():
        state = prefill(compression, inputs)
        chunk = score(compression, state, ANSWER)
        other = score(compression, state, ANSWER.flip(1))
        assert torch.equal(chunk[:, 0], other[:, 0]) and not torch.equal(chunk, other)
        decided = {k: a.anchors.clone() for k, a in state.decisions.items() if a is not None}
        compression.decoder.run = state.run
        mask = inputs["attention_mask"]
        for step in range(3):  # a hand-written loop: full-length mask, no positions
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            out = model(
                input_ids=ANSWER[:, step : step + 1], attention_mask=mask, past_key_values=state.cache
            )
            assert (out.logits[:, -1] - chunk[:, step + 1]).abs().max() < 1e-5
        for stage, anchors in decided.items():
            found = state.decisions[stage]
            assert found is not None and torch.equal(found.anchors, anchors)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_decisions_are_repeated_under_another_question(kind: str) -> None:
    model = tiny.model(kind)
    first, second = tiny.batch(kind, several=True), tiny.batch(kind, several=True)
    text = second["attention_mask"].bool() & (second["input_ids"] > 6)
    second["input_ids"] = torch.where(text, (second["input_ids"] * 5 + 3) % 50 + 8, second["input_ids"])
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    stages = [
        {"site": "projector", "reducer": "divprune", "keep": 0.8},
        {"site": "decoder", "layer": 2, "reducer": "fastv", "keep": 0.3},
    ]
    with compress(model, tiny.policy(model, *stages)) as compression:
        asked = prefill(compression, first)
        fresh = prefill(compression, second)
        kept_fresh = compression.kept
        other = prefill(compression, second, decisions=asked.decisions)
        kept_other = compression.kept
        compression.decoder.run = asked.run
        assert kept_other == compression.kept != kept_fresh
        assert not torch.equal(other.logits, fresh.logits)
    prefix = capture(model, second)
    with compress(model, tiny.policy(model, *stages)) as compression:
        again = resume(compression, prefix, decisions=asked.decisions)
    assert torch.equal(again.logits, other.logits)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_decisions_do_not_depend_on_the_batch(kind: str) -> None:
    """A random reducer draws by the example, not by its row; ids can be given."""
    model, inputs = tiny.model(kind), tiny.batch(kind)
    policy = tiny.policy(model, {"site": "projector", "reducer": "random", "keep": 0.4})
    with compress(model, policy) as compression:
        prefill(compression, inputs)
        together = compression.kept
        length = int(inputs["attention_mask"][1].sum())
        alone = {
            k: v[1:2, -length:]
            for k, v in inputs.items()
            if k in ("input_ids", "attention_mask", "mm_token_type_ids")
        }
        if "image_grid_thw" not in inputs:
            per_image = ("pixel_values", "image_sizes", "batch_num_images")
            tiles = slice(1, 1 + tiny.TILES[1] if kind == "internvl" else 2)
            alone |= {k: v[tiles] for k, v in inputs.items() if k in per_image}
        else:
            rows = inputs["image_grid_thw"].prod(1).cumsum(0).tolist()
            alone["pixel_values"] = inputs["pixel_values"][rows[0] : rows[1]]
            alone["image_grid_thw"] = inputs["image_grid_thw"][1:2]
        prefill(compression, alone)
        rows = len(compression.kept)  # two views where an image has a map of crops
        mine = slice(1, 1 + rows) if kind == "internvl" else slice(rows, 2 * rows)
        assert compression.kept == together[mine]
        compression.ids = torch.tensor([5])
        prefill(compression, alone)
        given = compression.kept
        compression.ids = torch.tensor([6])
        prefill(compression, alone)
        assert compression.kept != given != together[mine]


def test_policies_that_start_in_the_tower_are_not_resumed() -> None:
    model, inputs = tiny.model("llava"), tiny.batch("llava")
    prefix = capture(model, inputs)
    policy = tiny.policy(model, {"site": "vision", "layer": 2, "reducer": "tome", "keep": 0.5})
    with compress(model, policy) as compression, pytest.raises(ValueError, match="use prefill"):
        resume(compression, prefix)


def test_states_are_made_with_the_policy_on_and_prefixes_with_it_off() -> None:
    model, inputs = tiny.model("llava"), tiny.batch("llava")
    prefix = capture(model, inputs)
    with compress(model, tiny.policy(model, *PLANS["decoder-1"])) as compression:
        state = resume(compression, prefix)
        with pytest.raises(ValueError, match="has a policy"):
            capture(model, inputs)
    for call in (
        lambda: resume(compression, prefix),
        lambda: prefill(compression, inputs),
        lambda: score(compression, state, ANSWER),
    ):
        with pytest.raises(ValueError, match="was removed"):
            call()
