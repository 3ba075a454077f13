"""What reducers see of an image that became tiles: linked rows, signals of the right patches, budgets that move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import autotc.reducer
from autotc.apply import capture, compress, prefill, resume
from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Reducer, Source, TokenView, budgets
from autotc.scoring import top_mask
from tests.apply import tiny, tiny_anyres
from tests.apply.reference import kept_by_stage, last_residual, masked

SEEN: list[TokenView] = []


@dataclass(frozen=True)
class Looking(Reducer):
    """Looks at the tower's signals and keeps everything."""

    name = "looking"
    title = "looking"
    source = Source("test")
    sites = ("projector", "decoder")
    needs = ("features", "vision_keys", "received_attention")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        SEEN.append(view)
        return select(view.valid)


@dataclass(frozen=True)
class Moving(Reducer):
    """Leaves the base view one token and gives the rest of its budget to the map of the crops."""

    name = "moving"
    title = "moving"
    source = Source("test")
    sites = ("projector", "decoder")
    joint = True

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        count = budgets(view, budget)
        for base in range(0, len(count), 2):
            assert view.group[base] == view.group[base + 1]
            free = torch.minimum(count[base] - 1, view.counts[base + 1] - count[base + 1])
            count[base], count[base + 1] = count[base] - free, count[base + 1] + free
        return select(top_mask(-(view.source * 37 % 101).float(), count, view.valid))


@pytest.fixture(autouse=True)
def reducers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registry, own = autotc.reducer.reducers, {cls.name: cls for cls in (Looking, Moving)}
    get, names = registry.get, registry.names()
    monkeypatch.setattr(registry, "get", lambda name: own[name] if name in own else get(name))
    monkeypatch.setattr(registry, "names", lambda: (*names, *own))
    SEEN.clear()
    yield


def tower_outputs(kind: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, mean keys and (from eager attention) received attention of every tile of a stock tower."""
    tower, eager = (tiny.model(kind, torch.float64, how).model.vision_tower for how in ("sdpa", "eager"))
    images = tiny_anyres.views(tiny.rule(kind), inputs)
    pixels = torch.cat(
        [mine[: seen.tiles] for mine, seen in zip(inputs["pixel_values"], images, strict=True)]
    )
    with torch.no_grad():
        out = tower(pixels, output_hidden_states=True)
        attentions = eager(pixels, output_attentions=True).attentions
        prefix, layer = (1, -2) if kind == "llava_next" else (0, -1)
        block = tower.encoder.layers[layer]
        keys = block.self_attn.k_proj(block.layer_norm1(out.hidden_states[layer - 1]))
    keys = keys.unflatten(-1, (2, -1)).mean(2)[:, prefix:]
    return out.hidden_states[layer][:, prefix:], keys, attentions[layer].mean(2)[..., prefix:]


@pytest.mark.parametrize("kind", tiny_anyres.KINDS)
def test_each_token_has_the_signals_of_its_patch(kind: str) -> None:
    model, inputs = tiny.model(kind, torch.float64), tiny.batch(kind, torch.float64, several=True)
    policy = tiny.policy(model, {"site": "projector", "reducer": "looking", "keep": 0.5})
    prefix = capture(model, inputs, Looking.needs)
    with compress(model, policy) as compression:
        prefill(compression, inputs)
        resume(compression, prefix)
    view, again = SEEN
    for name in Looking.needs:
        assert torch.equal(view.signals[name], again.signals[name])
    features, keys, received = tower_outputs(kind, inputs)
    scaled = tiny_anyres.scaled(tiny.rule(kind), inputs)
    core, close, tile, row = model.model, {"atol": 1e-10, "rtol": 1e-9}, 0, 0
    rounded = {"atol": 1e-6, "rtol": 1e-4}  # eager attention takes its softmax in 32 bits
    for image, seen in enumerate(tiny_anyres.views(tiny.rule(kind), inputs)):
        assert view.group[row] == view.group[row + 1] == image
        assert view.image[row, 0] == view.image[row + 1, 0] == [0, 0, 1, 0][image]
        base, crops = (n[row, : view.counts[row]] for n in (view.x, view.signals["features"]))
        with torch.no_grad():
            torch.testing.assert_close(core.multi_modal_projector(crops), base, **close)
        torch.testing.assert_close(crops, features[tile], **close)
        torch.testing.assert_close(view.signals["vision_keys"][row, :36], keys[tile], **close)
        torch.testing.assert_close(view.signals["received_attention"][row, :, :36], received[tile], **rounded)
        height, width = seen.grids[1]
        rest = slice(0, height * width)
        mine = view.signals["features"][row + 1, rest].unflatten(0, (height, width))
        heads = view.signals["received_attention"][row + 1, :, rest].unflatten(1, (height, width))
        assert not mine[:, -1].any() and not heads[:, :, -1].any(), "newline embeddings have no signals"
        assert not view.signals["features"][row + 1, height * width :].any()
        embeds = view.x[row + 1, rest].unflatten(0, (height, width))
        assert torch.equal(embeds[:, -1], core.image_newline.expand(height, -1))
        if not scaled[row + 1]:
            with torch.no_grad():
                torch.testing.assert_close(core.multi_modal_projector(mine[:, :-1]), embeds[:, :-1], **close)
        if seen.tiles > 1:
            # a token of the map has the attention that it received in its own tile
            crop = tile + 1 + torch.arange(seen.tiles - 1)
            apart = (mine[:, :-1].flatten(0, 1)[:, None] - features[crop].flatten(0, 1)).abs().amax(2)
            assert apart.amin(1).max() < 1e-10
            flat = received[crop].transpose(1, 2).flatten(0, 1)[apart.argmin(1)]
            torch.testing.assert_close(heads[:, :, :-1].flatten(1).T, flat, **rounded)
        tile, row = tile + seen.tiles, row + 2
    assert row == len(view.x) and tile == len(features)


@pytest.mark.parametrize("kind", tiny_anyres.KINDS)
def test_beams_repeat_images_not_groups(kind: str) -> None:
    model, inputs = tiny.model(kind), tiny.batch(kind, several=True)
    policy = tiny.policy(model, {"site": "projector", "reducer": "moving", "keep": 0.4})
    with compress(model, policy) as compression, torch.no_grad():
        model.generate(**inputs, max_new_tokens=2, do_sample=False, num_beams=2, suppress_tokens=[tiny.IMAGE])
        images = compression.decoder.run.prompt.images
    assert images.group.tolist() == [image for image in range(8) for _ in (0, 1)]
    assert images.sample.tolist() == [0] * 2 + [1] * 2 + [2] * 4 + [3] * 4 + [4] * 2 + [5] * 2
    assert images.picture.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", tiny_anyres.KINDS)
def test_a_joint_reducer_moves_budget_between_the_views(kind: str) -> None:
    model = tiny.model(kind, torch.float64)
    inputs = tiny.batch(kind, torch.float64, several=True)
    stages: list[dict[str, Any]] = [
        {"site": "projector", "reducer": "moving", "keep": 0.4},
        {"site": "decoder", "layer": 3, "reducer": "random", "keep": 0.2},
    ]
    policy = tiny.policy(model, *stages)
    with compress(model, policy) as compression, last_residual(model) as cut:
        prefill(compression, inputs)
        counts = [t * h * w for t, h, w in compression.decoder.run.prompt.images.grids]
        kept = kept_by_stage(compression, counts)
        first, second = compression.trace
    asked, found = first["asked"].view(-1, 2), first["kept"].view(-1, 2)
    assert torch.equal(asked.sum(1), found.sum(1)) and (found[:, 0] < asked[:, 0]).any()
    assert (second["kept"] <= second["asked"]).all() and (second["kept"] <= first["kept"]).all()
    with torch.no_grad(), last_residual(model) as seen, masked(model, policy, kept, inputs, counts):
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert (cut[0] - seen[0]).abs().max() < 1e-10
