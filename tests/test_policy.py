"""The policy document: what is accepted, what is refused and in which words, and how depths travel."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotc.anatomy import Anatomy, DecoderAnatomy, ImageRule, VisionAnatomy
from autotc.errors import PolicyError
from autotc.policy import Policy, budget, load_policy, map_depth


def document(**changes: object) -> dict:
    base = {
        "schema": "autotc/policy/1",
        "model": {"family": "qwen2_5_vl", "id": "m", "decoder_layers": 28, "vision_blocks": 32},
        "positions": "original",
        "stages": [
            {"site": "projector", "reducer": "divprune", "keep": 0.45},
            {"site": "decoder", "layer": 8, "reducer": "fastv", "keep": 0.2, "params": {"heads": "mean"}},
            {"site": "decoder", "layer": 20, "reducer": "withdraw", "keep": 0.0},
        ],
    }
    return {**base, **changes}


def stage(**changes: object) -> dict:
    return document(stages=[{"site": "decoder", "layer": 2, "reducer": "fastv", "keep": 0.5, **changes}])


def anatomy(decoder_layers: int, vision_blocks: int = 32, family: str = "qwen2_5_vl") -> Anatomy:
    return Anatomy(
        family=family,
        id="other",
        image=ImageRule(14, 2, None, 3136, 10**7),
        vision=VisionAnatomy(vision_blocks, vision_blocks, 64, 4, 128, 3, 0, 0, (), 1176, ((256, 64),)),
        decoder=DecoderAnatomy(decoder_layers, 64, 4, 2, 16, 128, 100),
        parameters=1,
    )


def test_round_trip_keeps_everything(tmp_path):
    policy = load_policy(document())
    path = tmp_path / "policy.json"
    path.write_text(policy.json_text())
    assert load_policy(path) == policy
    assert json.loads(policy.json_text())["schema"] == "autotc/policy/1"


def test_describe_reads_like_a_sentence():
    text = load_policy(document()).describe()
    assert text == "projector divprune 45.0% · decoder@8 fastv 20.0% · decoder@20 withdraw"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (document(schema="autotc/policy/9"), "schema: 'autotc/policy/9'"),
        (document(positon="x"), "positon: unknown key. Did you mean 'positions'?"),
        (stage(layr=3), "stages[0].layr: unknown key. Did you mean 'layer'"),
        (stage(keep=1.2), "stages[0].keep"),
        (stage(keep=-0.1), "stages[0].keep"),
        (stage(keep=float("nan")), "stages[0].keep"),
        (stage(layer=0), "stages[0].layer"),
        (stage(layer=None), "needs a 'layer'"),
        (stage(site="projector"), "has no layers"),
        (stage(site="cache", layer=None), "not supported yet"),
        (stage(site="attic"), "stages[0].site"),
        (
            document(stages=[{"site": "projector", "reducer": "divprune", "keep": 0}]),
            "only possible at site 'decoder'",
        ),
        (
            document(
                stages=[
                    {"site": "projector", "reducer": "divprune", "keep": 0.2},
                    {"site": "decoder", "layer": 8, "reducer": "fastv", "keep": 0.3},
                ]
            ),
            "stages[1].keep is 0.3 after 0.2",
        ),
        (
            document(
                stages=[
                    {"site": "decoder", "layer": 8, "reducer": "fastv", "keep": 0.3},
                    {"site": "decoder", "layer": 8, "reducer": "dart", "keep": 0.2},
                ]
            ),
            "strictly increasing",
        ),
    ],
)
def test_bad_documents_are_refused_where_they_are_wrong(bad, words):
    with pytest.raises(PolicyError) as error:
        load_policy(bad)
    assert words in str(error.value)


def test_unreadable_files_are_named(tmp_path):
    missing = tmp_path / "none.json"
    with pytest.raises(PolicyError, match=r"none\.json: cannot be read"):
        load_policy(missing)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(PolicyError, match="not a JSON document"):
        load_policy(broken)


def test_id_depends_on_what_is_done_and_on_nothing_else():
    policy = load_policy(document())
    same = load_policy(document(status="verified", provenance={"study": "x"}))
    assert same.id == policy.id
    assert load_policy(document(positions="compact")).id != policy.id
    nearly = document()
    nearly["stages"][0]["keep"] = 0.45 + 1e-8
    assert load_policy(nearly).id == policy.id
    nearly["stages"][0]["keep"] = 0.45 + 1e-5
    assert load_policy(nearly).id != policy.id


@given(st.integers(1, 4000), st.floats(0, 1))
def test_budget_is_between_one_and_all_and_rounds_half_up(n, keep):
    kept = budget(n, keep)
    if keep == 0:
        assert kept == 0
    else:
        assert 1 <= kept <= n
        assert kept == 1 or abs(kept - keep * n) <= 0.5


def test_budget_bounds_and_halves():
    assert budget(5, 0.5) == 3
    assert budget(576, 1 / 9) == 64
    assert budget(100, 0.01, min_tokens=8) == 8
    assert budget(100, 0.9, max_tokens=16) == 16


@given(st.integers(2, 40), st.integers(2, 90), st.data())
def test_depths_round_trip_from_the_smaller_model(small, extra, data):
    large = small + extra
    layer = data.draw(st.integers(1, small - 1))
    there = map_depth(layer, small, large)
    assert 1 <= there <= large - 1
    assert map_depth(there, large, small) == layer


def test_for_model_maps_depths_and_refuses_collisions_and_other_families():
    policy = load_policy(document())
    assert [s.layer for s in policy.for_model(anatomy(14)).stages] == [None, 4, 10]
    assert policy.for_model(anatomy(14)).for_model(anatomy(28)).stages == policy.stages
    close = document(
        stages=[
            {"site": "decoder", "layer": 8, "reducer": "fastv", "keep": 0.5},
            {"site": "decoder", "layer": 9, "reducer": "fastv", "keep": 0.2},
        ]
    )
    with pytest.raises(PolicyError, match="same layer"):
        load_policy(close).for_model(anatomy(14))
    with pytest.raises(PolicyError, match=r"model\.family"):
        policy.for_model(anatomy(14, family="llava"))


def test_schema_is_closed():
    schema = Policy.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False
    assert "schema" in schema["properties"]
