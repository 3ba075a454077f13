"""What engines can run: the table names what exists, a search keeps within it, and what it says to set is true."""

from __future__ import annotations

import random

import pytest

from autotc.adapter import adapters, resolve_model
from autotc.deploy import ANY, ENGINES, check_policy, engine, engine_of
from autotc.errors import SpecError
from autotc.policy import ModelRef, Policy, Stage
from autotc.proxies import proxy_folder
from autotc.reducer import reducers
from autotc.search.space import Space
from autotc.search.spec import SearchSpec, differences, fingerprint
from autotc.workload import PROFILES, parse_workload
from tests.search.points import point

QWEN, QWEN3, LLAVA = (resolve_model(name).anatomy for name in ("qwen2.5-vl", "qwen3-vl-8b", "llava-1.5-7b"))
VQA = PROFILES["vqa"]


def policy(*stages: Stage, full=QWEN, positions: str = "original") -> Policy:  # type: ignore[no-untyped-def]
    model = ModelRef(
        family=full.family,
        id=full.id,
        decoder_layers=full.decoder.layers,
        vision_blocks=full.vision.blocks,
    )
    return Policy(model=model, stages=stages, positions=positions)  # type: ignore[arg-type]


def test_the_table_names_reducers_families_and_sites_that_exist_and_a_source_for_each() -> None:
    for found in ENGINES.values():
        for ability in found.abilities:
            if found.name == "hf":
                continue
            assert ability.sources and all(
                s.startswith("https://") for s in (*ability.sources, *found.sources)
            )
            assert ability.site in reducers.get(ability.reducer).sites
            for family in ability.families:
                assert ability.site in adapters.get(family).sites
                assert set(adapters.get(family).positions) & set(ability.positions)


@pytest.mark.parametrize(
    ("name", "stages", "positions", "expected"),
    [
        ("vllm", [Stage(site="input", reducer="downsample", keep=0.3)], "original", None),
        (
            "vllm",
            [
                Stage(site="input", reducer="downsample", keep=0.3),
                Stage(site="decoder", layer=8, reducer="fastv", keep=0.1),
            ],
            "original",
            r"--deploy vllm: stages\[1\]: fastv at decoder layer 8: vLLM runs downsample at input\. See",
        ),
        (
            "openvino",
            [Stage(site="projector", reducer="divprune", keep=0.3)],
            "original",
            r"stages\[0\]: divprune at projector: OpenVINO GenAI runs downsample at input, cdpruner at projector",
        ),
        ("openvino", [Stage(site="projector", reducer="cdpruner", keep=0.3)], "original", None),
        (
            "openvino",
            [Stage(site="projector", reducer="cdpruner", keep=0.3)],
            "compact",
            r"stages\[0\]: cdpruner at projector: OpenVINO GenAI keeps original positions only",
        ),
        ("hf", [Stage(site="decoder", layer=8, reducer="fastv", keep=0.1)], "compact", None),
    ],
)
def test_a_policy_that_an_engine_cannot_run_is_refused_by_stage(
    name: str, stages: list[Stage], positions: str, expected: str | None
) -> None:
    document = policy(*stages, positions=positions)
    if expected is None:
        check_policy(name, document)
        return
    with pytest.raises(SpecError, match=expected):
        check_policy(name, document)


def test_wrong_engines_families_and_reducers_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"--deploy: unknown engine 'vlm'\. Did you mean 'vllm'\?"):
        engine("vlm")
    with pytest.raises(
        SpecError, match=r"--deploy vllm: vLLM is not known to run .* family 'llava', only of qwen2_5_vl"
    ):
        engine_of("vllm", "llava")
    with pytest.raises(
        SpecError, match=r"--deploy vllm: vLLM cannot run 'fastv'; it runs downsample at input\."
    ):
        SearchSpec.from_options(
            {"model": "qwen2.5-vl", "deploy": "vllm", "reducers": ("downsample", "fastv")}
        )
    with pytest.raises(SpecError, match="--deploy: 'vlm' is not known"):
        SearchSpec.from_options({"model": "qwen2.5-vl", "deploy": "vlm"})


@pytest.mark.parametrize("name", ["vllm", "openvino"])
def test_a_search_for_an_engine_proposes_only_what_it_runs(name: str) -> None:
    proxy = resolve_model(str(proxy_folder(QWEN.family))).anatomy
    space = Space(QWEN, proxy, VQA, 800.0, deploy=name)
    used = set()
    for seed in range(60):
        proposed = space.decode(point(space, random.Random(seed))).policy
        check_policy(name, proposed)
        used |= {(s.site, s.reducer) for s in proposed.stages}
    assert used == {(a.site, a.reducer) for a in ENGINES[name].abilities if ANY not in (a.site, a.reducer)}
    with pytest.raises(SpecError, match="family 'llava'"):
        Space(LLAVA, LLAVA, VQA, 800.0, deploy=name)


def test_a_search_without_an_engine_is_the_one_it_was() -> None:
    document = SearchSpec(model="qwen2.5-vl").document(VQA)
    before = {k: v for k, v in document.items() if k != "deploy"}
    assert document["deploy"] == "hf"
    assert fingerprint(document) == fingerprint(before)
    assert differences(before, document) == []
    other = {**document, "deploy": "vllm"}
    assert fingerprint(other) != fingerprint(document)
    assert differences(before, other) == ["deploy was 'hf', now 'vllm'"]


@pytest.mark.parametrize("full", [QWEN, QWEN3])
@pytest.mark.parametrize("keep", [0.05, 1 / 9, 0.4, 0.9])
def test_an_image_of_the_size_it_says_has_the_tokens_of_the_policy(full, keep: float) -> None:  # type: ignore[no-untyped-def]
    load = parse_workload("resolution=1024x640")
    one = policy(Stage(site="input", reducer="downsample", keep=keep), full=full)
    lines = engine("vllm").how_to(one, full, load)
    width, height = (int(v) for v in lines[0].split(" as ")[1].split(" ")[0].split("x"))
    unit = full.image.patch * full.image.merge
    tokens = (width // unit) * (height // unit)
    assert f"({tokens} of {full.visual_tokens(1024, 640)} visual tokens)" in lines[0]
    assert tokens <= one.stages[0].tokens(full.visual_tokens(1024, 640))
    enlarged = full.visual_tokens(width, height) != tokens
    assert enlarged == any("min_pixels" in line for line in lines)


@pytest.mark.parametrize("keep", [0.02, 1 / 9, 0.25, 0.5, 0.99])
def test_the_pruning_ratio_is_the_gentlest_that_keeps_no_more_tokens_than_the_policy(keep: float) -> None:
    def kept(ratio: int) -> int:  # the engine rounds to the nearest, then up to an even number
        n = int(576 * (100 - ratio) / 100 + 0.5)
        return n + n % 2

    one = policy(Stage(site="projector", reducer="cdpruner", keep=keep))
    wanted = one.stages[0].tokens(576)
    line = next(x for x in engine("openvino").how_to(one, QWEN, VQA) if "pruning_ratio" in x)
    ratio = int(line.split(" = ")[1].split(" ")[0])
    assert f"keeps {kept(ratio)} of 576 tokens, the policy {wanted}" in line
    assert kept(ratio) <= wanted
    assert ratio == 1 or kept(ratio - 1) > wanted


def test_behind_smaller_images_the_ratio_is_of_the_tokens_that_are_left() -> None:
    both = policy(
        Stage(site="input", reducer="downsample", keep=0.5),
        Stage(site="projector", reducer="cdpruner", keep=0.25),
    )
    lines = engine("openvino").how_to(both, QWEN, VQA)
    here = int(lines[0].split("(")[1].split(" ")[0])
    line = next(x for x in lines if "pruning_ratio" in x)
    assert f"of {here} tokens, the policy 144" in line
