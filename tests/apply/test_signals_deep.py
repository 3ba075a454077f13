"""Signals that look at more than one row, layer or block equal what eager attention and plain formulas give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

import autotc.reducer
from autotc._stages import Plan
from autotc._tower import Tower
from autotc.adapter import OF_PROCESSOR, OF_TEXT_ENCODER
from autotc.apply import capture, compress, prefill, resume
from autotc.assignment import Assignment, select
from autotc.policy import ModelRef, Policy, Stage
from autotc.reducer import SIGNALS, Budget, Reducer, Source, TokenView
from tests.apply import test_signals as plain
from tests.apply import tiny

DECODER = (
    "text_self_attention",
    "next_text_attention",
    "next_keys",
    "prefix_attention",
    "content_attention",
    "peak_attention",
    "flow_attention",
    "hidden_before",
    "transition",
)
PROJECTOR = (
    "final_cls_logits",
    "final_cls_attention",
    "final_keys",
    "vision_attention",
    "first_cls_attention",
    "first_received_attention",
    "early_cls_attention",
    "early_received_attention",
    "middle_received_attention",
)
VISION = ("block_values", "block_value_attention", "block_logits", "block_cls_logits")
CLOSE = {"atol": 5e-6, "rtol": 1e-4}
SEEN: list[tuple[str, TokenView]] = []


@dataclass(frozen=True)
class Deep(Reducer):
    """Looks at everything, keeps everything and watches the layers before."""

    name = "deep"
    title = "deep"
    source = Source("test")
    sites = ("vision", "projector", "decoder")
    stateful = True
    observes = 2
    needs = DECODER

    def observe(self, view: TokenView) -> None:
        SEEN.append(("observe", view))

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        SEEN.append(("assign", view))
        return select(view.valid)


@dataclass(frozen=True)
class DeepProjector(Deep):
    name = "deep_projector"
    needs = PROJECTOR


@dataclass(frozen=True)
class DeepLate(Deep):
    name = "deep_late"
    needs = ("cls_attention", "features")
    stateful = False


@dataclass(frozen=True)
class DeepVision(Deep):
    name = "deep_vision"
    needs = VISION


@pytest.fixture(autouse=True)
def spies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    spies = {cls.name: cls for cls in (Deep, DeepProjector, DeepVision, DeepLate)}
    registry = autotc.reducer.reducers
    get, names = registry.get, registry.names()
    monkeypatch.setattr(registry, "get", lambda name: spies[name] if name in spies else get(name))
    monkeypatch.setattr(registry, "names", lambda: (*names, *spies))
    SEEN.clear()
    yield


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "llava"])
def test_decoder_signals(kind: str) -> None:
    wide, layer = torch.float64, 3  # in float32 the two attention functions drift apart
    inputs = tiny.batch(kind, wide, several=True)
    model = tiny.model(kind, wide)
    policy = tiny.policy(model, {"site": "decoder", "layer": layer, "reducer": "deep", "keep": 0.5})
    prefix = capture(model, inputs)
    with compress(model, policy) as compression:
        state = prefill(compression, inputs)
        first = list(SEEN)
        again = resume(compression, prefix)
    assert torch.equal(state.logits, prefix.logits), "looking must change nothing"
    assert torch.equal(again.logits, prefix.logits)
    assert [what for what, _ in first] == ["observe", "observe", "assign"]
    for (_, view), (_, resumed) in zip(first, SEEN[len(first) :], strict=True):
        for name in DECODER:
            assert torch.equal(view.signals[name], resumed.signals[name]), name
    watched: dict[int, list[Tensor]] = {}
    layers = model.model.language_model.layers
    for i, module in enumerate(layers):
        for part in (module.input_layernorm, module.self_attn, module.post_attention_layernorm, module.mlp):
            part.register_forward_hook(
                lambda m, a, o, i=i: watched.setdefault(i, []).append(o[0] if isinstance(o, tuple) else o)
            )
    states: list[Tensor] = []  # transformers' own hidden states leave out what DeepStack adds behind a layer
    for module in layers:
        module.register_forward_pre_hook(lambda m, args: states.append(args[0]))
    out = plain.run(model, inputs)
    attentions = _maps(model, inputs)
    for at, (_, view) in enumerate(first, 1):
        _check_decoder(view, at, out, states, attentions, watched, layers, inputs, kind)


def _check_decoder(
    view: TokenView,
    layer: int,
    out: Any,
    states: list[Tensor],
    attentions: Any,
    watched: Any,
    layers: Any,
    inputs: dict[str, Tensor],
    kind: str,
) -> None:
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    before, keys = attentions[layer - 1], out.past_key_values.layers[layer].keys
    for i, (b, columns) in enumerate(plain.images_of(kind, inputs)):
        n, end, found = len(columns), columns[-1], {k: view.signals[k][i] for k in DECODER}
        rows = [c for c in range(end + 1, ids.shape[1]) if mask[b, c] and int(ids[b, c]) != tiny.IMAGE]
        t, real = len(rows), mask[b].nonzero()[:, 0]

        def close(name: str, got: Tensor, expected: Tensor) -> None:
            torch.testing.assert_close(
                got.double(), expected.double(), msg=lambda text: f"{name}: {text}", **CLOSE
            )

        close("text_self", found["text_self_attention"][:, :t, :t], before[b][:, rows][:, :, rows])
        close(
            "next_text", found["next_text_attention"][:, :t, :n], attentions[layer][b][:, rows][:, :, columns]
        )
        torch.testing.assert_close(found["next_keys"][:, :n], keys[b][:, columns], atol=1e-4, rtol=1e-4)
        close("hidden_before", found["hidden_before"][:n], states[layer - 1][b, columns])
        peak = before[b][:, columns][:, :, columns].amax(0).mean(0)
        close("peak", found["peak_attention"][:n], peak)
        # softmax(logits / 0.1) is the tenth power of the attention, rows normalised
        power = before[b][:, real][:, :, real].double() ** 10
        power = power / power.sum(-1, keepdim=True)
        flow = torch.full((power.shape[0], 1, len(real)), 1 / len(real), dtype=torch.double)
        for _ in range(5):
            flow = flow @ power
        inside = torch.isin(real, torch.tensor(columns))
        close("flow", found["flow_attention"][:, :n], flow[:, 0][:, inside].float())
        # no rotary positions: the layers' own projections by hand
        width, groups = before.shape[1], keys.shape[1]
        q, k = _heads(layers[layer - 1], states[layer - 1][b])
        logits = q[:, real[-1]].view(groups, width // groups, -1) @ k[:, columns].transpose(1, 2)
        expected = (logits.reshape(width, n) * q.shape[-1] ** -0.5).softmax(-1)
        close("content", found["content_attention"][:, :n], expected)
        q, k = _heads(layers[layer], states[layer][b])
        seen = [int(c) for c in real if c <= end]
        logits = q[:, seen].mean(1).view(groups, width // groups, -1) @ k[:, seen].transpose(1, 2)
        expected = (logits.reshape(width, -1) * q.shape[-1] ** -0.5).softmax(-1)
        at = [seen.index(c) for c in columns]
        close("prefix", found["prefix_attention"][:, :n], expected[:, at])
        entered, attended, second, fed = (x[b, real] for x in watched[layer - 1][:4])
        turn = sum(
            after.norm(dim=1)
            / a.norm(dim=1)
            * (1 - (a * after).sum(1) / a.norm(dim=1) / after.norm(dim=1)).softmax(0)
            for a, after in ((entered, attended), (second, fed))
        )
        close("transition", found["transition"][:n], turn[inside])
        for name in ("peak_attention", "hidden_before", "transition"):
            assert not found[name][n:].any(), name


def _maps(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return each layer's attention (B, H, S, S) in float64; eager attention would round it to float32."""
    maps: list[Tensor] = []

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any) -> Any:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        logits = q @ k.transpose(-1, -2) * options["scaling"]
        seen = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        weights = logits.masked_fill(~(seen if mask is None else mask), -1e300).softmax(-1)
        maps.append(weights)
        return (weights @ v).transpose(1, 2).contiguous(), None

    AttentionInterface.register("maps", attend)
    AttentionMaskInterface.register("maps", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.model.language_model.config._attn_implementation = "maps"
    plain.run(model, inputs)
    model.model.language_model.config._attn_implementation = "sdpa"
    return maps[: len(model.model.language_model.layers)]


def _heads(layer: Any, state: Tensor) -> tuple[Tensor, Tensor]:
    normed, width = layer.input_layernorm(state), layer.self_attn.head_dim
    heads = []
    for which in "qk":
        found = getattr(layer.self_attn, f"{which}_proj")(normed).unflatten(-1, (-1, width))
        own = getattr(layer.self_attn, f"{which}_norm", None)  # Qwen3 norms each head
        heads.append((found if own is None else own(found)).detach().transpose(0, 1))
    return heads[0], heads[1]


def test_tower_signals_on_clip() -> None:
    inputs = tiny.batch("llava", torch.float64, several=True)
    model, twin = tiny.model("llava", torch.float64), tiny.model("llava", torch.float64, "eager")
    with torch.no_grad():
        attentions = twin.model.vision_tower(inputs["pixel_values"], output_attentions=True).attentions
        out = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    policy = tiny.policy(
        model,
        {"site": "vision", "layer": 3, "reducer": "deep_vision", "keep": 0.8},
        {"site": "projector", "reducer": "deep_projector", "keep": 0.5},
        {"site": "decoder", "layer": 2, "reducer": "deep_late", "keep": 0.4},
    )
    with compress(model, policy) as compression:
        prefill(compression, inputs)
    assert [what for what, _ in SEEN] == ["observe", "observe", "assign", "assign", "assign"]
    for block, (_, view) in enumerate(SEEN[:3]):
        q, k, v = _projections(model, out, block)
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        found = view.signals
        torch.testing.assert_close(found["block_values"], v[:, :, 1:], atol=1e-6, rtol=1e-6)
        row = (v[:, :, :1] @ v.transpose(-1, -2)).softmax(-1)[:, :, 0, 1:]
        torch.testing.assert_close(found["block_value_attention"], row, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found["block_logits"], logits.mean(1)[:, 1:, 1:], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(found["block_cls_logits"], logits.mean(1)[:, 0, 1:], atol=1e-6, rtol=1e-6)
    projector, late = SEEN[3][1].signals, SEEN[4][1]
    last = tiny.BLOCKS - 2
    q, k, _ = _projections(model, out, last + 1)  # the block that LLaVA leaves out of the features
    logits = (q[:, :, :1] @ k.transpose(-1, -2))[:, :, 0, 1:] * q.shape[-1] ** -0.5
    close = {"atol": 2e-6, "rtol": 1e-4}  # eager attention takes its softmax in float32
    torch.testing.assert_close(projector["final_cls_logits"], logits, atol=1e-6, rtol=1e-6)
    wide_q, wide_k = (x.transpose(1, 2).flatten(2) for x in (q, k))
    wide = (wide_q[:, :1] @ wide_k.transpose(1, 2))[:, 0] * wide_q.shape[-1] ** -0.5
    torch.testing.assert_close(
        projector["final_cls_attention"], wide.softmax(-1)[:, 1:], atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(projector["final_keys"], wide_k[:, 1:], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(projector["vision_attention"], attentions[last].mean(1)[:, 1:, 1:], **close)
    for place in ("first", "early"):
        torch.testing.assert_close(projector[f"{place}_cls_attention"], attentions[0][:, :, 0, 1:], **close)
        received = attentions[0].mean(2)[..., 1:]
        torch.testing.assert_close(projector[f"{place}_received_attention"], received, **close)
    torch.testing.assert_close(late.signals["cls_attention"], attentions[last][:, :, 0, 1:], **close)


def _projections(model: Any, out: Any, block: int) -> list[Tensor]:
    layer = model.model.vision_tower.encoder.layers[block]
    normed = layer.layer_norm1(out.hidden_states[block])
    parts = (getattr(layer.self_attn, f"{which}_proj")(normed) for which in "qkv")
    return [x.detach().unflatten(-1, (2, -1)).transpose(1, 2) for x in parts]


def test_signals_of_the_tower_follow_the_tokens_that_are_left() -> None:
    inputs = tiny.batch("llava", several=True)
    model = tiny.model("llava")
    policy = tiny.policy(
        model,
        {"site": "projector", "reducer": "uniform", "keep": 0.5},
        {"site": "decoder", "layer": 2, "reducer": "deep_late", "keep": 0.4},
    )
    with compress(model, policy) as compression:
        prefill(compression, inputs)
        tower = compression.tower.run
    assert tower is not None
    (_, view) = SEEN[-1]
    assert view.x.shape[1] == 18
    for i, sources in enumerate(view.source):
        expected = tower.signals["cls_attention"][i][:, sources]
        assert torch.equal(view.signals["cls_attention"][i], expected)
        assert torch.equal(view.signals["features"][i], tower.signals["features"][i][sources])


@pytest.mark.parametrize(
    ("blocks", "used", "prefix", "depths"),
    [(24, 23, 1, (0, 5, 8, 22, 23)), (32, 32, 0, (0, 7, 15, 31, 31)), (4, 4, 0, (0, 0, 1, 3, 3))],
)
def test_depths_of_the_tower(blocks: int, used: int, prefix: int, depths: tuple[int, ...]) -> None:
    adapter: Any = SimpleNamespace(blocks=[None] * blocks, blocks_used=used, tower_prefix=prefix)
    reference = ModelRef(family="llava", decoder_layers=4, vision_blocks=blocks)
    tower = Tower(adapter, Plan(Policy(model=reference)), set())
    assert tuple(map(tower.depth, ("first", "early", "middle", "last", "final"))) == depths


def test_a_stateful_reducer_sees_the_layers_around_its_stages() -> None:
    def stage(layer: int, reducer: str = "deep") -> Stage:
        return Stage(site="decoder", layer=layer, reducer=reducer, keep=0.5)

    reference = ModelRef(family="llava", decoder_layers=20, vision_blocks=5)
    stages = (stage(6), stage(8, "random"), stage(10), stage(14, "fastv"))
    plan = Plan(Policy(model=reference, stages=stages))
    watched = {i: [s.stage.layer for s in plan.watching("decoder", i)] for i in range(1, 20)}
    assert {i: found for i, found in watched.items() if found} == {
        4: [6],
        5: [6],
        7: [10],
        8: [10],
        9: [10],
    }


def test_every_signal_of_the_table_is_covered() -> None:
    covered = {*plain.DECODER, *plain.PROJECTOR, *plain.VISION, *DECODER, *PROJECTOR, *VISION}
    assert covered | set(OF_TEXT_ENCODER) | set(OF_PROCESSOR) == set(SIGNALS)
