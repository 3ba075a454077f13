"""Attaching and removing: nothing changes with all tokens kept, nothing is left, the rest is refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

import autotc.apply
from autotc.adapter import anatomy
from autotc.anatomy import Views
from autotc.apply import check, compress, prefill
from autotc.cost import schedule
from autotc.errors import AutotcError, PolicyError, UnsupportedError
from autotc.reducers import fastv as fastv_module
from tests.apply import tiny, tiny_anyres
from tests.apply.fake_reducers import fakes  # noqa: F401

EVERYTHING: list[dict[str, Any]] = [
    {"site": "vision", "layer": 1, "reducer": "tome", "keep": 1.0},
    {"site": "projector", "reducer": "visionzip", "keep": 1.0},
    {"site": "decoder", "layer": 2, "reducer": "fastv", "keep": 1.0},
    {"site": "decoder", "layer": 4, "reducer": "pyramiddrop", "keep": 1.0},
]
REPLACED = ("forward", "generate", "get_image_features")
CUT: list[dict[str, Any]] = [{"site": "decoder", "layer": 2, "reducer": "fastv", "keep": 0.5}]


def generate(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> Any:
    with torch.no_grad():
        return model.generate(
            **inputs,
            max_new_tokens=3,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )


def traces(model: Any) -> list[Any]:
    """Everything a policy could leave behind."""
    found: list[Any] = []
    for name, module in model.named_modules():
        found.append((name, len(module._forward_pre_hooks), len(module._forward_hooks)))
        found.append((name, sorted(k for k in vars(module) if k in REPLACED or "autotc" in k)))
        config = getattr(module, "config", None)
        if config is not None:
            found.append((name, config._attn_implementation))
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_keep_everything_is_bit_identical_and_leaves_nothing(kind: str, attention: str) -> None:
    model = tiny.model(kind, attention=attention)
    inputs = tiny.batch(kind, several=True)
    before = generate(model, inputs)  # transformers installs recording hooks of its own at the first call
    clean = traces(model)
    stages = tiny.possible(kind, EVERYTHING)
    with compress(model, tiny.policy(model, *stages)) as compression:
        during = generate(model, inputs)
        assert traces(model) != clean
        assert all(torch.equal(t["asked"], t["kept"]) for t in compression.trace)
        assert len(compression.trace) == len(stages)
    assert traces(model) == clean
    after = generate(model, inputs)
    for a, b, c in zip(before.logits, during.logits, after.logits, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_nothing_is_left_after_an_exception(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny.model(kind), tiny.batch(kind)
    before = generate(model, inputs)
    clean = traces(model)

    def broken(self: Any, view: Any, budget: Any) -> Any:
        raise RuntimeError("broken reducer")

    stages = [{"site": "vision", "layer": 2, "reducer": "tome", "keep": 0.8}, *CUT]
    with monkeypatch.context() as patch:
        patch.setattr(fastv_module.FastV, "assign", broken)
        with (
            pytest.raises(RuntimeError, match="broken reducer"),
            compress(model, tiny.policy(model, *tiny.possible(kind, stages))),
        ):
            generate(model, inputs)
    assert traces(model) == clean
    assert torch.equal(generate(model, inputs).logits[0], before.logits[0])


def test_nothing_is_left_when_attaching_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llava")
    clean = traces(model)

    def broken(*args: Any) -> Any:
        raise RuntimeError("no tap")

    monkeypatch.setattr(autotc.apply, "Tap", broken)
    with pytest.raises(RuntimeError, match="no tap"):
        compress(model, tiny.policy(model, *CUT))
    assert traces(model) == clean


def test_second_policy_is_refused_and_remove_is_safe_twice() -> None:
    model = tiny.model("llava")
    handle = compress(model, tiny.policy(model, *CUT))
    with pytest.raises(UnsupportedError, match="already has a policy"):
        compress(model, tiny.policy(model, *CUT))
    handle.remove()
    handle.remove()
    compress(model, tiny.policy(model)).remove()


def test_an_unverified_policy_warns_once() -> None:
    model = tiny.model("llava")
    policy = tiny.policy(model, {"site": "projector", "reducer": "random", "keep": 0.123})
    policy = policy.model_copy(update={"status": "unverified"})
    with pytest.warns(UserWarning, match="autotc verify"):
        compress(model, policy).remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compress(model, policy).remove()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_prompts_without_images_pass_through(kind: str) -> None:
    model = tiny.model(kind)
    inputs = {
        "input_ids": torch.tensor([[9, 10, 11, 12]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.long),
    }
    before = generate(model, inputs)
    with compress(model, tiny.policy(model, *CUT)) as compression:
        during = generate(model, inputs)
        assert compression.trace == []
    assert torch.equal(before.sequences, during.sequences)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
        ({"cache_implementation": "quantized"}, "cache_implementation='quantized'"),
        ({"prefill_chunk_size": 8}, "chunked prefill"),
        ({"prompt_lookup_num_tokens": 2}, "assisted decoding"),
        ({"assistant_model": object()}, "assisted decoding"),
    ],
)
def test_generate_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    model, inputs = tiny.model("llava"), tiny.batch("llava")
    with compress(model, tiny.policy(model, *CUT)), pytest.raises(UnsupportedError, match=message):
        generate(model, inputs, **options)


def test_forward_calls_are_refused_by_name() -> None:
    model, inputs = tiny.model("qwen2_5_vl"), tiny.batch("qwen2_5_vl", rows=1)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    static = StaticCache(config=model.config.text_config, max_cache_len=128)
    filled = DynamicCache(config=model.config.text_config)
    shape = (1, 2, 4, 8)
    for layer in range(tiny.LAYERS):
        filled.update(torch.zeros(shape), torch.zeros(shape), layer)
    embeds = model.get_input_embeddings()(ids).detach()
    cases: list[tuple[dict[str, Any], str]] = [
        ({**inputs, "past_key_values": static}, "StaticCache"),
        ({**inputs, "attention_mask": torch.ones(1, 1, 4, 4)}, "shape"),
        (
            {**inputs, "input_ids": ids[:, :-2], "mm_token_type_ids": inputs["mm_token_type_ids"][:, :-2]},
            "chunked",
        ),
        ({"input_ids": ids, "attention_mask": mask}, "pixel_values"),
        ({"inputs_embeds": embeds, "attention_mask": mask}, "input_ids"),
        ({**inputs, "pixel_values_videos": inputs["pixel_values"]}, "videos"),
    ]
    with compress(model, tiny.policy(model, *CUT)) as compression, torch.no_grad():
        for call, message in cases:
            with pytest.raises(UnsupportedError, match=message):
                model(**call)
        state = prefill(compression, inputs)
        with pytest.raises(UnsupportedError, match="not filled by the latest prefill"):
            model(input_ids=ids[:, -1:], past_key_values=filled)
        with pytest.raises(UnsupportedError, match="chunked prefill"):
            model(input_ids=ids[:, -8:], past_key_values=state.cache)
        with pytest.raises(UnsupportedError, match="columns"):
            model(input_ids=ids[:, -1:], attention_mask=mask[:, :3], past_key_values=state.cache)


@pytest.mark.parametrize("implementation", ["flex_attention", "flash_attention_2"])
def test_attention_implementations_are_refused_by_name(implementation: str) -> None:
    model = tiny.model("llava")
    model.config.text_config._attn_implementation = implementation
    with pytest.raises(UnsupportedError, match=implementation):
        compress(model, tiny.policy(model, *CUT))


def test_sliding_windows_are_refused() -> None:
    model = tiny.model("qwen2_5_vl")
    model.config.text_config.layer_types = ["sliding_attention"] * tiny.LAYERS
    with pytest.raises(UnsupportedError, match="sliding"):
        compress(model, tiny.policy(model, *CUT))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llava", {"family": "qwen2_5_vl"}, r"model\.family: the policy is for 'qwen2_5_vl'"),
        ("llava", {"decoder_layers": 32}, r"model: .* 32 decoder layers .*for_model"),
        ("llava", {"stages": [{**CUT[0], "layer": 6}]}, r"stages\[0\]\.layer: 6 .* 1\.\.5"),
        (
            "llava",
            {"stages": [{"site": "vision", "layer": 4, "reducer": "tome", "keep": 0.5}]},
            r"stages\[0\]\.layer: 4 .*'vision': 1\.\.3",
        ),
        ("llava", {"stages": [{**CUT[0], "reducer": "fasv"}]}, r"stages\[0\]\.reducer: .*'fastv'"),
        (
            "llava",
            {"stages": [{**CUT[0], "params": {"head": "mean"}}]},
            r"stages\[0\]\.params: fastv: unknown parameter 'head'",
        ),
        (
            "llava",
            {"stages": [{"site": "projector", "reducer": "fastv", "keep": 0.5}]},
            r"stages\[0\]\.site: fastv is not made for site 'projector'; its sites: decoder\. "
            r"At 'projector' these fit: .*divprune",
        ),
        (
            "qwen2_5_vl",
            {"stages": [{"site": "vision", "layer": 2, "reducer": "ficoco_v", "keep": 0.5}]},
            r"stages\[0\]\.reducer: ficoco_v needs block_logits.*\(.*one sequence an image in the tower\), which "
            r"qwen2_5_vl does not have\. At 'vision' these fit: .*tome",
        ),
        ("qwen2_5_vl", {"positions": "compact"}, "positions: 'compact' is not supported for qwen2_5_vl"),
    ],
)
def test_check_names_the_place(kind: str, changes: dict[str, Any], message: str) -> None:
    model = tiny.model(kind)
    document = tiny.policy(model, *CUT).model_dump()
    for key in ("family", "decoder_layers"):
        if key in changes:
            document["model"][key] = changes[key]
    document |= {k: v for k, v in changes.items() if k in ("stages", "positions")}
    policy = type(tiny.policy(model)).model_validate(document)
    with pytest.raises(AutotcError, match=message) as raised:
        check(policy, anatomy(model))
    assert isinstance(raised.value, PolicyError | UnsupportedError)
    with pytest.raises(AutotcError, match=message):
        compress(model, policy)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_counts_and_caches_are_those_the_cost_model_predicts(kind: str) -> None:
    model, inputs = tiny.model(kind), tiny.batch(kind, several=True)
    stages = [
        {"site": "vision", "layer": 1, "reducer": "tome", "keep": 0.9},
        {"site": "vision", "layer": 3, "reducer": "random", "keep": 0.75},
        {"site": "projector", "reducer": "divprune", "keep": 0.6},
        {"site": "decoder", "layer": 1, "reducer": "fastv", "keep": 0.35},
        {"site": "decoder", "layer": 4, "reducer": "withdraw", "keep": 0.0},
    ]
    stages = tiny.possible(kind, stages)
    policy = tiny.policy(model, *stages)
    with compress(model, policy) as compression:
        state = prefill(compression, inputs)
    images = state.run.prompt.images
    seen = [Views(((h, w),), (h, w)) for _, h, w in images.grids]
    if kind in tiny_anyres.KINDS:
        seen = tiny_anyres.views(tiny.rule(kind), inputs)
        assert [g for views in seen for g in views.grids] == [(h, w) for _, h, w in images.grids]
    if kind == "internvl":
        seen = [Views(((4, 4),) * tiny.TILES[i], (4, 4), tiny.TILES[i]) for i in (0, 1, 3, 2)]
    plans = [schedule(policy, anatomy(model), views) for views in seen]
    for i in range(len(stages)):
        assert state.trace[i]["stage"] == i
        assert state.trace[i]["kept"].tolist() == [k for plan in plans for _, k in plan.cuts[i].rows]
    text = inputs["attention_mask"].sum(1) - (inputs["input_ids"] == tiny.IMAGE).sum(1)
    first = torch.searchsorted(images.group, torch.arange(len(plans)))  # a row of each image
    for layer in range(tiny.LAYERS):
        longest = text.clone()
        for sample, plan in zip(images.sample[first], plans, strict=True):
            longest[sample] += plan.decoder[layer]
        assert state.cache.layers[layer].get_seq_length() == int(longest.max())
        assert state.run.layouts[layer].valid.sum(1).tolist() == longest.tolist()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_picture_of_what_was_kept(kind: str) -> None:
    model, inputs = tiny.model(kind), tiny.batch(kind, several=True)
    stages = [
        {"site": "vision", "layer": 1, "reducer": "tome", "keep": 0.9},
        {"site": "projector", "reducer": "visionzip", "keep": 0.5},
        {"site": "decoder", "layer": 2, "reducer": "fastv", "keep": 0.3},
    ]
    with compress(model, tiny.policy(model, *tiny.possible(kind, stages))) as compression:
        prefill(compression, inputs)
        kept, pictures = compression.kept, compression.assignments
    for mine, matrix, (t, h, w) in zip(
        kept, pictures, compression.decoder.run.prompt.images.grids, strict=True
    ):
        assert matrix.shape == (len(mine), t * h * w)
        assert (matrix.sum(1) > 0.99).all()
        assert all(matrix[row, source] > 0 for row, source in enumerate(mine))
