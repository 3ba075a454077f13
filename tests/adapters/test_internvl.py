"""InternVL: published numbers, tiles and how they are linked, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import InternVLConfig

from autotc.adapter import adapter_for, anatomy, family_of
from autotc.anatomy import ImageRule
from autotc.apply import compress, prefill
from autotc.cost import full_cost, schedule
from autotc.errors import UnsupportedError
from autotc.policy import ModelRef, Policy, Stage
from autotc.reducer import TokenView
from autotc.workload import Request, Workload
from tests.apply import tiny
from tests.apply.fake_reducers import FAKES, Uneven, fakes  # noqa: F401
from tests.apply.reference import kept_by_stage, masked, square_rows


@pytest.mark.parametrize(
    ("alias", "billions", "digits"),
    [
        ("internvl3-1b", 0.938, 1e-3),
        ("internvl3-2b", 2.09, 5e-3),
        ("internvl3-8b", 7.94, 5e-3),
        ("internvl3-14b", 15.1, 5e-2),
        ("internvl3.5-1b", 1.1, 5e-2),
        ("internvl3.5-2b", 2.3, 5e-2),
        ("internvl3.5-4b", 4.7, 5e-2),
        ("internvl3.5-8b", 8.5, 5e-2),
        ("internvl3.5-14b", 15.1, 5e-2),
    ],
)
def test_parameters_are_those_of_the_published_checkpoints(
    alias: str, billions: float, digits: float
) -> None:
    assert anatomy(alias).parameters / 1e9 == pytest.approx(billions, abs=digits)


def test_tiles_are_those_of_transformers() -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    sizes = [
        (448 * a + d, 448 * b + e) for a in range(1, 6) for b in range(1, 6) for d in (-1, 0) for e in (0, 1)
    ]
    sizes += [(k * a, k * b) for k in (50, 224, 300, 633, 634, 900) for a in (1, 2, 3, 7) for b in (1, 2, 5)]
    for most in (1, 2, 6, 12):
        rule = ImageRule(patch=14, merge=2, fixed=448, cut=most)
        for width, height in sizes:
            expected = get_optimal_tiled_canvas((height, width), (448, 448), 1, most)
            assert rule.canvas(width, height) == tuple(expected), (width, height, most)
            tiles = expected[0] * expected[1]
            assert rule.views(width, height).tiles == tiles + (tiles > 1)


def test_tokens_and_cost_count_tiles() -> None:
    numbers = anatomy("internvl3-8b")
    assert numbers.visual_tokens(448, 448) == 256
    assert numbers.visual_tokens(672, 672) == 5 * 256, "2 x 2 tiles and the thumbnail"
    assert numbers.visual_tokens(1240, 1754) == 7 * 256
    one, five = (
        full_cost(numbers, Workload((Request(width=side, height=side),))).parts for side in (448, 672)
    )
    assert five["tower"] == pytest.approx(5 * one["tower"]), "tiles do not see one another in the tower"
    assert five["projector"] == pytest.approx(5 * one["projector"])
    stage = Stage(site="projector", reducer="random", keep=0.3)
    model = ModelRef(family="internvl", decoder_layers=28, vision_blocks=24)
    policy, views = Policy(model=model, stages=(stage,)), numbers.image.views(672, 672)
    plan = schedule(policy, numbers, views)
    assert plan.decoder[0] == 5 * stage.tokens(256)


def test_tiles_of_one_image_are_linked() -> None:
    model, inputs = tiny.model("internvl"), tiny.batch("internvl", several=True)
    with compress(
        model, tiny.policy(model, {"site": "projector", "reducer": "random", "keep": 0.5})
    ) as handle:
        prefill(handle, inputs)
        images = handle.decoder.run.prompt.images  # type: ignore[union-attr]
    assert images.sample.tolist() == [0] + [1] * 8 + [2]
    assert images.group.tolist() == [0] + [1] * 3 + [2] * 5 + [3]
    assert images.picture.tolist() == [0] + [0] * 3 + [1] * 5 + [0]
    assert set(images.grids) == {(1, 4, 4)}


def test_rows_of_a_token_are_the_square_that_the_shuffle_joins() -> None:
    """The projector's input holds the four patches of a token side by side, in the adapter's order."""
    model, inputs = tiny.model("internvl"), tiny.batch("internvl")
    adapter = adapter_for(model)
    rows: list[Any] = []
    adapter.blocks[-1].register_forward_hook(lambda m, a, out: rows.append(out))
    adapter.projector.register_forward_pre_hook(lambda m, a: rows.append(a[0]))
    with torch.no_grad():
        adapter.core(**inputs)
    members = adapter.token_rows((1, 4, 4), torch.device("cpu"))
    assert members[5].tolist() == [18, 19, 26, 27], "second row and column of tokens, on 8 patches a side"
    assert torch.equal(rows[0][:, 1:][:, members].flatten(2), rows[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": {"model_type": "llama"}}, "llama language model"),
        ({"vision_config": {"model_type": "clip_vision_model"}}, "clip_vision_model tower"),
        ({"vision_feature_layer": -2}, "vision_feature_layer: only -1"),
        ({"vision_feature_select_strategy": "full"}, "select_strategy: only 'default'"),
        ({"downsample_ratio": 0.25}, r"downsample_ratio: only 0\.5"),
    ],
)
def test_other_makes_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    config = InternVLConfig().to_dict()
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    with pytest.raises(UnsupportedError, match=f"internvl: .*{message}"):
        family_of("internvl").anatomy(config, "x")


LOOKED = (
    "cls_attention",
    "final_cls_logits",
    "received_attention",
    "vision_attention",
    "vision_keys",
    "features",
    "first_cls_attention",
    "first_received_attention",
)


@dataclass(frozen=True)
class Looking(Uneven):
    name = "looking"
    sites = ("projector",)
    needs = LOOKED


@pytest.mark.usefixtures("fakes")
def test_signals_of_a_token_are_the_means_of_its_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against maps written out by hand, behind a cut that leaves the tiles unequal."""
    monkeypatch.setitem(FAKES, "looking", Looking)
    model = tiny.model("internvl", torch.float64)
    inputs = tiny.batch("internvl", torch.float64, several=True)
    views: list[TokenView] = []
    assign = Looking.assign
    monkeypatch.setattr(
        Looking, "assign", lambda self, view, budget: (views.append(view), assign(self, view, budget))[1]
    )
    cut = {"site": "vision", "layer": 1, "reducer": "uneven", "keep": 0.7}
    policy = tiny.policy(model, cut, {"site": "projector", "reducer": "looking", "keep": 0.5})
    with compress(model, policy) as handle:
        prefill(handle, inputs)
        kept = kept_by_stage(handle, [16] * 10)
    (view,) = views
    blocks = model.model.vision_tower.encoder.layer
    entering: list[Tensor] = []
    for i in (0, len(blocks) - 1):
        blocks[i].register_forward_pre_hook(lambda m, args: entering.append(args[0]))
    blocks[-1].register_forward_hook(lambda m, args, out: entering.append(out))
    with torch.no_grad(), masked(model, policy, {0: kept[0], 1: kept[0]}, inputs, [16] * 10):
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    members = square_rows(64)
    for i, left in enumerate(kept[0]):
        n, rows = len(left), members[left]
        assert int(view.valid[i].sum()) == n < 16 and view.source[i, :n].tolist() == left
        seen = torch.cat([torch.zeros(1, dtype=torch.long), 1 + rows.flatten()])
        for at, names in ((0, ("first_cls_attention", "first_received_attention")), (-1, LOOKED[:6])):
            alive = torch.arange(65) if at == 0 else seen  # nothing is gone in the first block
            queries, keys = _heads(blocks[at], entering[at and 1][i : i + 1, alive])
            logits = (queries @ keys.transpose(-1, -2))[0] * blocks[at].attention.scale
            weights = logits.softmax(-1)
            whose = members if at == 0 else torch.arange(4 * n).view(n, 4)
            expected = {
                "cls_attention": weights[:, 0, 1:][:, whose].mean(-1),
                "final_cls_logits": logits[:, 0, 1:][:, whose].mean(-1),
                "received_attention": weights.mean(1)[:, 1:][:, whose].mean(-1),
                "vision_attention": weights.mean(0)[1:, 1:][whose][..., whose].mean((1, 3)),
                "vision_keys": keys.mean(1)[0, 1:][whose].mean(1),
                "features": entering[2][i, 1:][rows].mean(1),
            }
            for name in names:
                found = view.signals[name][i]
                values = expected[name.removeprefix("first_")]
                if at == 0:  # by original token, of those left
                    values = values[:, left]
                place = tuple(slice(0, size) for size in values.shape)
                torch.testing.assert_close(found[place], values, atol=1e-9, rtol=1e-6, msg=name)


def _heads(block: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (1, H, S, hd) of some rows of a block's input."""
    attention, normed = block.attention, block.layernorm_before(hidden)
    pairs = ((attention.q_norm, attention.q_proj), (attention.k_norm, attention.k_proj))
    with torch.no_grad():
        queries, keys = (
            norm(projected(normed)).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for norm, projected in pairs
        )
    return queries, keys
