"""Qwen3-VL: published numbers, and DeepStack's features, which follow the tokens that are left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autotc.adapter import anatomy
from autotc.apply import compress, prefill
from autotc.cost import full_cost
from autotc.errors import UnsupportedError
from autotc.workload import Workload
from tests.apply import tiny
from tests.apply.fake_reducers import FAKES, Uneven, fakes  # noqa: F401

LEVELS = 3


@pytest.mark.parametrize(
    ("alias", "billions"),
    [("qwen3-vl-2b", 2.13), ("qwen3-vl-4b", 4.44), ("qwen3-vl-8b", 8.77), ("qwen3-vl-32b", 33.36)],
)
def test_parameters_are_those_of_the_published_checkpoints(alias: str, billions: float) -> None:
    assert anatomy(alias).parameters / 1e9 == pytest.approx(billions, abs=5e-3)


def test_tokens_of_an_image() -> None:
    """32 pixels a side of a token; small images are enlarged to 256 x 256."""
    numbers = anatomy("qwen3-vl-8b")
    assert numbers.visual_tokens(1024, 768) == 32 * 24
    assert numbers.visual_tokens(64, 64) == 64
    assert numbers.vision.deep == (8, 16, 24) and numbers.vision.window_patches == 0
    parts = full_cost(numbers, Workload()).parts
    shallow = full_cost(anatomy("qwen2.5-vl"), Workload()).parts
    assert parts["projector"] > 2 * shallow["projector"], "four mergers instead of one"


def added_and_given(
    model: Any, inputs: dict[str, Tensor], *stages: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor], Any]:
    """Run a prefill: what came on top of each of the first layers' output, and DeepStack's features of all tokens."""
    out: list[Tensor] = []
    entered: list[Tensor] = []
    given: list[list[Tensor]] = []
    text = model.model.language_model
    handles = [
        # before the policy's own hooks: the features as the tower gave them, the layer's own output
        text.register_forward_pre_hook(
            lambda m, a, k: given.append(k["deepstack_visual_embeds"]), with_kwargs=True
        ),
        *(layer.register_forward_hook(lambda m, a, o: out.append(o)) for layer in text.layers[:LEVELS]),
    ]
    with compress(model, tiny.policy(model, *stages)) as compression:
        # behind them: what really enters the next layer
        for layer in text.layers[1 : LEVELS + 1]:
            handles.append(layer.register_forward_pre_hook(lambda m, a: entered.append(a[0])))
        prefill(compression, inputs)
        run = compression.decoder.run
    for handle in handles:
        handle.remove()
    return [b - a for a, b in zip(out, entered, strict=True)], given[0], run


@pytest.mark.usefixtures("fakes")
def test_survivors_get_exactly_their_own_features() -> None:
    model = tiny.model("qwen3_vl", torch.float64)
    inputs = tiny.batch("qwen3_vl", torch.float64, several=True)
    added, given, run = added_and_given(
        model, inputs, {"site": "projector", "reducer": "uneven", "keep": 0.5}
    )
    assert len(given) == LEVELS
    counts = [h * w for _, h, w in run.prompt.images.grids]
    starts = [0, *torch.tensor(counts).cumsum(0).tolist()]
    images = run.entry.images
    for level, (seen, features) in enumerate(zip(added, given, strict=True)):
        expected = torch.zeros_like(seen)
        for i, b in enumerate(images.sample.tolist()):
            left = images.valid[i]
            expected[b, images.place[i, left]] = features[starts[i] + images.source[i, left]]
        real = run.entry.valid  # text rows get nothing; padding may hold anything
        torch.testing.assert_close(seen[real], expected[real], atol=1e-12, rtol=0, msg=f"level {level}")
        assert features.abs().max() > 0.1


@pytest.mark.usefixtures("fakes")
def test_a_merged_token_gets_the_same_mixture_of_features() -> None:
    """Between layers: what was added before the cut is in the state, what comes later is mixed by its weights."""
    model = tiny.model("qwen3_vl", torch.float64)
    inputs = tiny.batch("qwen3_vl", torch.float64, rows=1)
    stage = {"site": "decoder", "layer": 2, "reducer": "soft", "keep": 0.5}
    level = 2
    text, seen = model.model.language_model, []
    handle = text.layers[2].register_forward_hook(lambda m, a, o: seen.append(o))
    with compress(model, tiny.policy(model, stage)) as compression:
        inner = text.layers[3].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
        features: list[list[Tensor]] = []
        outer = model.model.visual.register_forward_hook(
            lambda m, a, o: features.append(o.deepstack_features)
        )
        prefill(compression, inputs)
        matrix = compression.decisions[0].dense()[0]  # type: ignore[union-attr]
        images = compression.decoder.run.current.images  # type: ignore[union-attr]
    for h in (handle, inner, outer):
        h.remove()
    found = (seen[1] - seen[0])[0, images.place[0]]
    expected = matrix.to(torch.float64) @ features[0][level]
    assert matrix.count_nonzero(1).min() > 1, "every row is a mixture"
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("stage", "positions", "message"),
    [
        ({"site": "projector", "reducer": "random", "keep": 0.5}, "compact", "positions: 'compact'"),
        ({"site": "projector", "reducer": "clsonly", "keep": 0.5}, "original", "needs cls_attention"),
    ],
)
def test_what_the_family_does_not_have_is_refused_by_name(
    stage: dict[str, Any], positions: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls_only = type("ClsOnly", (Uneven,), {"name": "clsonly", "needs": ("cls_attention",)})
    monkeypatch.setitem(FAKES, "clsonly", cls_only)
    model = tiny.model("qwen3_vl")
    with pytest.raises(UnsupportedError, match=message):
        compress(model, tiny.policy(model, stage, positions=positions))
