"""Signals equal what eager attention gives, and taking them changes no bit of the output."""

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
from autotc.reducer import Budget, Reducer, Source, TokenView
from tests.apply import tiny, tiny_anyres
from tests.apply.reference import image_columns, tower_order

DECODER = (
    "last_attention",
    "next_attention",
    "text_attention",
    "input_embeds",
    "text_embeds",
    "text_hidden",
    "keys",
    "text_keys",
    "normed",
    "text_normed",
)
PROJECTOR = ("cls_attention", "received_attention", "vision_keys", "features", "text_embeds")
VISION = ("block_keys", "block_cls_attention", "block_received_attention")


@dataclass(frozen=True)
class Spy(Reducer):
    """Looks at everything and keeps everything."""

    name = "spy"
    title = "spy"
    source = Source("test")
    sites = ("vision", "projector", "decoder")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        SEEN.append(view)
        return select(view.valid)


@dataclass(frozen=True)
class SpyDecoder(Spy):
    name = "spy_decoder"
    needs = DECODER


@dataclass(frozen=True)
class SpyProjector(Spy):
    name = "spy_projector"
    needs = PROJECTOR
    instead = {"cls_attention": "received_attention"}


@dataclass(frozen=True)
class SpyVision(Spy):
    name = "spy_vision"
    needs = VISION
    instead = {"block_cls_attention": "block_received_attention"}


@dataclass(frozen=True)
class SpyInside(SpyVision):
    name = "spy_inside"
    where = "after_attention"


SEEN: list[TokenView] = []
SPIES = {cls.name: cls for cls in (SpyDecoder, SpyProjector, SpyVision, SpyInside)}


@pytest.fixture(autouse=True)
def spies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registry = autotc.reducer.reducers
    get, names = registry.get, registry.names()
    monkeypatch.setattr(registry, "get", lambda name: SPIES[name] if name in SPIES else get(name))
    monkeypatch.setattr(registry, "names", lambda: (*names, *SPIES))
    SEEN.clear()
    yield


def run(model: Any, inputs: dict[str, Tensor], **options: bool) -> Any:
    """Return the outputs of a stock prefill."""
    with torch.no_grad():
        return model.generate(
            **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, **options
        )


def images_of(kind: str, inputs: dict[str, Tensor]) -> list[tuple[int, list[int]]]:
    if kind in tiny.FIXED:
        counts = [tiny.FIXED[kind]] * len(inputs["pixel_values"])
    elif kind in tiny_anyres.KINDS:  # base view and map of each image
        counts = [n for views in tiny_anyres.views(tiny.rule(kind), inputs) for n in views.counts]
    else:
        counts = (inputs["image_grid_thw"].prod(1) // 4).tolist()
    return image_columns(inputs["input_ids"], tiny.IMAGE, counts)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_decoder_signals_equal_eager_outputs(kind: str) -> None:
    inputs, layer = tiny.batch(kind, several=True), 3
    model = tiny.model(kind)
    policy = tiny.policy(model, {"site": "decoder", "layer": layer, "reducer": "spy_decoder", "keep": 0.5})
    prefix = capture(model, inputs)
    with compress(model, policy) as compression:
        state = prefill(compression, inputs)
        again = resume(compression, prefix)
    view, resumed = SEEN
    assert torch.equal(state.logits, prefix.logits), "looking must change nothing"
    assert torch.equal(again.logits, prefix.logits)
    for name in DECODER:
        assert torch.equal(view.signals[name], resumed.signals[name]), name
    attentions = run(tiny.model(kind, attention="eager"), inputs, output_attentions=True).attentions[0]
    text, states = model.model.language_model, []
    for i in (0, layer):  # transformers' own hidden_states leave out what DeepStack adds behind a layer
        text.layers[i].register_forward_pre_hook(lambda m, args: states.append(args[0]))
    out = run(model, inputs)
    (embeds, entering), before = states, attentions[layer - 1]
    cache = out.past_key_values.layers[layer - 1].keys
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    close = {"atol": 5e-6, "rtol": 1e-4}
    assert view.text_valid is not None
    for i, (b, columns) in enumerate(images_of(kind, inputs)):
        n = len(columns)
        assert int(view.valid[i].sum()) == n
        rows = [
            c for c in range(columns[-1] + 1, ids.shape[1]) if mask[b, c] and int(ids[b, c]) != tiny.IMAGE
        ]
        if kind == "llava":  # generated text may hold the placeholder's id nowhere
            assert len(rows) == int(view.text_valid[i].sum())
        signals, t = view.signals, len(rows)
        torch.testing.assert_close(signals["last_attention"][i, :, :n], before[b, :, -1, columns], **close)
        torch.testing.assert_close(
            signals["text_attention"][i, :, :t, :n], before[b][:, rows][:, :, columns], **close
        )
        # the next layer runs uncut under the spy, so its own row is in the eager outputs too
        torch.testing.assert_close(
            signals["next_attention"][i, :, :n], attentions[layer][b, :, -1, columns], **close
        )
        torch.testing.assert_close(signals["keys"][i, :, :n], cache[b][:, columns], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(signals["text_keys"][i, :, :t], cache[b][:, rows], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(signals["input_embeds"][i, :n], embeds[b, columns], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(signals["text_embeds"][i, :t], embeds[b, rows], **close)
        for name, rows_of in (("normed", columns), ("text_normed", rows)):
            expected = text.norm(entering[b, rows_of])
            torch.testing.assert_close(signals[name][i, : len(rows_of)], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(signals["text_hidden"][i, :t], entering[b, rows], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(view.x[i, :n], entering[b, columns], atol=1e-4, rtol=1e-4)
        assert not view.text_valid[i, t:].any() and not view.valid[i, n:].any()


def test_tower_signals_equal_eager_outputs_on_clip() -> None:
    inputs = tiny.batch("llava", torch.float64, several=True)
    model = tiny.model("llava", torch.float64)
    twin = tiny.model("llava", torch.float64, "eager")
    with torch.no_grad():
        out = twin.model.vision_tower(inputs["pixel_values"], output_attentions=True)
        plain = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    policy = tiny.policy(
        model,
        {"site": "vision", "layer": 1, "reducer": "spy_inside", "keep": 0.9},
        {"site": "vision", "layer": 2, "reducer": "spy_vision", "keep": 0.8},
        {"site": "projector", "reducer": "spy_projector", "keep": 0.5},
    )
    stock = capture(model, inputs)
    with compress(model, policy) as compression:
        state = prefill(compression, inputs)
    assert (state.logits - stock.logits).abs().max() < 1e-5
    inside, block, projector = SEEN
    close = {"atol": 2e-6, "rtol": 1e-4}
    for view in (inside, block):  # one cuts inside block 1, the other before block 2: both look at block 1
        attention = out.attentions[1]
        torch.testing.assert_close(view.signals["block_cls_attention"], attention[:, :, 0, 1:], **close)
        received = attention.mean(2)[..., 1:]
        torch.testing.assert_close(view.signals["block_received_attention"], received, **close)
    used = out.attentions[tiny.BLOCKS - 2]
    torch.testing.assert_close(projector.signals["cls_attention"], used[:, :, 0, 1:], **close)
    torch.testing.assert_close(projector.signals["received_attention"], used.mean(2)[..., 1:], **close)
    torch.testing.assert_close(
        projector.signals["features"], plain.hidden_states[-2][:, 1:], atol=1e-6, rtol=1e-6
    )
    last = model.model.vision_tower.encoder.layers[tiny.BLOCKS - 2]
    keys = last.self_attn.k_proj(last.layer_norm1(plain.hidden_states[-3]))[:, 1:]
    keys = keys.unflatten(-1, (2, -1)).mean(2)
    torch.testing.assert_close(projector.signals["vision_keys"], keys, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"])
def test_tower_signals_equal_a_full_attention_map_on_qwen(kind: str) -> None:
    inputs = tiny.batch(kind, torch.float64, several=True)
    model = tiny.model(kind, torch.float64)
    policy = tiny.policy(
        model,
        {"site": "vision", "layer": 3, "reducer": "spy_vision", "keep": 0.8},
        {"site": "projector", "reducer": "spy_projector", "keep": 0.5},
    )
    stock = capture(model, inputs)
    with compress(model, policy) as compression:
        state = prefill(compression, inputs)
    assert torch.equal(state.logits, stock.logits)
    block, projector = SEEN
    calls: list[tuple[Tensor, dict[str, Any]]] = []
    tower, grid = model.model.visual, inputs["image_grid_thw"]
    for b in tower.blocks:
        b.register_forward_pre_hook(lambda m, a, k: calls.append((a[0], k)), with_kwargs=True)
    merged: list[Tensor] = []
    tower.merger.register_forward_pre_hook(lambda m, a: merged.append(a[0]))
    with torch.no_grad():
        tower(inputs["pixel_values"], grid)
    back = torch.argsort(tower_order(model, grid))
    counts = (grid.prod(1) // 4).tolist()
    for at, view, names in (
        (2, block, ("block_received_attention", "block_keys")),
        (tiny.BLOCKS - 1, projector, ("received_attention", "vision_keys")),
    ):
        hidden, kwargs = calls[at]
        attention = tower.blocks[at].attn
        with torch.no_grad():
            normed = tower.blocks[at].norm1(hidden)
            q, k, _ = attention.qkv(normed).view(len(hidden), 3, attention.num_heads, -1).permute(1, 2, 0, 3)
        cos, sin = kwargs["position_embeddings"]

        def turn(x: Tensor, cos: Tensor = cos, sin: Tensor = sin) -> Tensor:
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat((-b, a), -1) * sin

        bounds = kwargs["cu_seqlens"]
        chunk = torch.repeat_interleave(torch.arange(len(bounds) - 1), bounds.diff().long())
        logits = turn(q) @ turn(k).transpose(-1, -2) * attention.scaling
        weights = logits.masked_fill(chunk[:, None] != chunk[None], float("-inf")).softmax(-1)
        received = weights.sum(1).unflatten(1, (-1, 4)).mean(2)[:, back]
        keys = turn(k).mean(0).unflatten(0, (-1, 4)).mean(1)[back]
        start = 0
        for i, n in enumerate(counts):
            mine = slice(start, start + n)
            expected = received[:, mine] / (4 * n)
            torch.testing.assert_close(view.signals[names[0]][i, :, :n], expected, atol=2e-6, rtol=1e-4)
            torch.testing.assert_close(view.signals[names[1]][i, :n], keys[mine], atol=1e-5, rtol=1e-5)
            start += n
    features = merged[0].unflatten(0, (-1, 4)).mean(1)[back].split(counts)
    for i, expected in enumerate(features):
        found = projector.signals["features"][i, : counts[i]]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
