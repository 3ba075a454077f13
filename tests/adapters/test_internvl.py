"""InternVL: published numbers, tiles and how they are linked, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import InternVLConfig

from autotc.adapter import adapter_for, anatomy, family_of
from autotc.anatomy import ImageRule
from autotc.apply import compress, prefill
from autotc.cost import full_cost, schedule
from autotc.errors import UnsupportedError
from autotc.policy import ModelRef, Policy, Stage
from autotc.workload import Request, Workload
from tests.apply import tiny


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
