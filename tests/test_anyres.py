"""Models that cut images into tiles, from pictures to figures: inputs, evaluation, limits."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText

from autotc.adapter import anatomy
from autotc.apply import check, compress
from autotc.cost import (
    estimate,
    estimate_tokens,
    floor_cost,
    full_cost,
    preset_policy,
    schedule,
    solve_keep,
)
from autotc.errors import UnsupportedError
from autotc.evaluate import Evaluator
from autotc.policy import ModelRef, Policy, Stage, budget
from autotc.processing import Processor, load_model, load_processor
from autotc.reducer import reducers
from autotc.text_encoder import TextEncoder
from autotc.workload import Request, Workload
from tests.anyres_fixtures import anyres_folder
from tests.evaluate_fixtures import Toy, picture, policy

KINDS = ("llava_next", "llava_onevision")
SIZES = [[(84, 84)], [(150, 60), (42, 42)], [(40, 170)]]
QUESTIONS = ["what is left ?", "colour of the right half ?", "right ?"]


def images() -> list[list[Any]]:
    return [[picture(i, *size) for i, size in enumerate(row)] for row in SIZES]


def full(kind: str, ours: Processor) -> Any:
    """transformers' own processor around the same parts; LLaVA-OneVision's constructor wants a video processor."""
    from transformers import LlavaNextProcessor, LlavaOnevisionProcessor

    if kind == "llava_next":
        return LlavaNextProcessor(
            ours.image_processor,
            ours.tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            chat_template=ours.chat_template,
            num_additional_image_tokens=1,
        )
    theirs = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    theirs.image_processor, theirs.tokenizer, theirs.video_processor = (
        ours.image_processor,
        ours.tokenizer,
        None,
    )
    theirs.chat_template, theirs.num_image_tokens = ours.chat_template, 36
    theirs.vision_feature_select_strategy, theirs.vision_aspect_ratio = "full", "anyres_max_2"
    theirs.image_token, theirs.image_token_id = ours.image_token, ours.image_token_id
    theirs.video_token, theirs.video_token_id = "<video>", 7
    return theirs


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_equal_the_full_processor_s(kind: str) -> None:
    ours = load_processor(anyres_folder(kind))
    prompts = [ours.prompt(q, len(row)) for q, row in zip(QUESTIONS, SIZES, strict=True)]
    expected = full(kind, ours)(images=images(), text=list(prompts), padding=True, return_tensors="pt")
    found = ours(images=images(), text=prompts)
    assert set(expected) == set(found) > {"pixel_values", "image_sizes"}
    for name in expected:
        assert torch.equal(torch.as_tensor(expected[name]), found[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_stock_model_takes_the_inputs(kind: str) -> None:
    """It refuses any other number of placeholders."""
    model, ours = load_model(anyres_folder(kind))
    data = ours.inputs(images(), QUESTIONS)
    with torch.inference_mode():
        assert torch.isfinite(model(**data).logits).all()
    counts = [anatomy(model).visual_tokens(*size, len(row)) for row in SIZES for size in row]
    assert counts == ours.image_tokens(data)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_do_not_depend_on_reuse(kind: str) -> None:
    folder, task = anyres_folder(kind), Toy(sizes=((84, 84), (150, 60)), images=6)
    stages = [("projector", None, "random", 0.5), ("decoder", 2, "fastv", 0.2)]
    cut = policy(folder, *stages)
    reusing = Evaluator(folder, task, batch=4)
    plain = Evaluator(reusing.model, task, batch=4, processor=reusing.processor, on=reusing.on, reuse=False)
    one, two = reusing.evaluate(cut, "search", 8), plain.evaluate(cut, "search", 8)
    assert one.columns() == two.columns()
    again = reusing.evaluate(cut, "search", 8)
    assert again.columns() == one.columns()
    # 4 examples of either size, of whose images the views are cut to a half and to a fifth
    views = [reusing.anatomy.image.views(*size) for size in ((84, 84), (150, 60))]
    for entry, keep in zip(one.trace, (0.5, 0.2), strict=True):
        asked = [budget(n, keep) for seen in views for n in seen.counts]
        assert entry["kept"] == entry["asked"] == sum(asked) / 2


@pytest.mark.parametrize(
    ("site", "layer", "reducer"), [("input", None, "downsample"), ("vision", 2, "uniform")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_sites_in_front_of_the_map_are_refused_with_a_reason(
    kind: str, site: str, layer: int | None, reducer: str
) -> None:
    cut = policy(anyres_folder(kind), (site, layer, reducer, 0.5))
    reason = "tiles of one size" if site == "input" else "holes in the map"
    with pytest.raises(
        UnsupportedError, match=rf"stages\[0\].site: '{site}' is not supported for {kind}: .*{reason}"
    ):
        check(cut, anatomy(anyres_folder(kind)))
    if site == "input":
        with pytest.raises(UnsupportedError, match="tiles of one size"):
            estimate(cut, anatomy(anyres_folder(kind)), Workload((Request(width=96, height=96),)))


def test_every_view_has_its_own_budget_and_the_tower_sees_all_tiles() -> None:
    numbers = anatomy("llava-next")
    views = numbers.image.views(672, 672)
    stages = ({"site": "projector", "reducer": "random", "keep": 0.1},)
    cut = Policy.model_validate(
        {"model": {"family": "llava_next", "decoder_layers": 32, "vision_blocks": 24}, "stages": stages}
    )
    plan = schedule(cut, numbers, views)
    assert plan.tokens == 2928 and plan.tiles == 5 and plan.cuts[0].rows == ((576, 58), (2352, 235))
    assert plan.decoder == (293,) * 32 and plan.attention == (576,) * 24
    square = Workload((Request(width=672, height=672, prompt_tokens=40, new_tokens=1),))
    one = anatomy("llava-1.5-7b")
    assert estimate(None, numbers, square).parts["tower"] == 5 * estimate(None, one, square).parts["tower"]
    assert estimate_tokens(numbers, square, 1001).entering_tokens == 1001
    assert floor_cost(numbers, square).tflops < estimate(cut, numbers, square).tflops_literature


def test_budgets_are_met_though_every_view_rounds_its_own() -> None:
    numbers = anatomy("llava-next")
    workload = Workload((Request(width=672, height=672, prompt_tokens=40, new_tokens=1),))
    reference = ModelRef(family="llava_next", decoder_layers=32, vision_blocks=24)
    whole = full_cost(numbers, workload)

    def staged(keep: float) -> Policy:
        stages = (
            Stage(site="projector", reducer="random", keep=keep),
            Stage(site="decoder", layer=16, reducer="fastv", keep=0.01),
        )
        return Policy(model=reference, stages=stages)

    for convention in ("literature", "exact"):
        for share in (0.1, 0.2, 0.3, 0.4):
            limit = share * whole.get(convention)
            keep = solve_keep(staged(0.5), 0, numbers, workload, limit, convention)
            assert keep is not None
            assert estimate(staged(keep), numbers, workload).get(convention) <= limit
            # two views round: a token more of the image may be none or two of its views
            assert estimate(staged(keep + 2 / 2928), numbers, workload).get(convention) > limit
    smaller = reducers.get("downsample")
    assert preset_policy(smaller, smaller.presets[0], numbers, workload, 1.0) is None


def test_newline_embeddings_are_no_patches_to_clip() -> None:
    encoder = TextEncoder.__new__(TextEncoder)
    encoder.projection = torch.randn(5, 8)
    norm, features = torch.nn.LayerNorm(8), torch.randn(2, 3, 8)
    torch.nn.init.normal_(norm.bias)
    features[1, 2] = 0
    found = encoder.patches(norm, features)
    assert not found[1, 2].any() and found[1, 1].all()


def test_several_images_are_charged_as_they_are_seen() -> None:
    """LLaVA-OneVision cuts an image into tiles only where it is alone."""
    numbers = anatomy("llava-onevision")
    alone, both = (
        Workload((Request(width=768, height=768, images=n, prompt_tokens=40, new_tokens=1),)) for n in (1, 2)
    )
    assert estimate(None, numbers, alone).entering_tokens == numbers.visual_tokens(768, 768) == 729 + 54 * 55
    assert estimate(None, numbers, both).entering_tokens == 2 * 730 == 2 * numbers.visual_tokens(768, 768, 2)
    assert estimate(None, numbers, alone).parts["tower"] == 2.5 * estimate(None, numbers, both).parts["tower"]


def counted(model: Any, inputs: dict[str, torch.Tensor], new_tokens: int) -> float:
    """Return the TFLOP per 1,000 requests that PyTorch counts over a whole `generate`."""
    lengths = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.generate(**inputs, **lengths, do_sample=False, pad_token_id=0)
    return counter.get_total_flops() / 1e9


@cache
def large(kind: str) -> Any:
    """A random model of tiles of 16 x 16 tokens."""
    text = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 6, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "vocab_size": 512}
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 6, "num_attention_heads": 2}
    vision |= {"image_size": 224, "patch_size": 14}
    towers = {
        "llava_next": {"model_type": "clip_vision_model", **vision},
        "llava_onevision": {"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
    }
    config = AutoConfig.for_model(
        kind,
        vision_config=towers[kind],
        text_config={"model_type": "llama" if kind == "llava_next" else "qwen2", **text},
        image_grid_pinpoints=[[224, 448], [448, 224], [448, 448], [672, 224], [224, 672]],
        image_token_index=500,
        **({"vision_aspect_ratio": "anyres_max_4"} if kind == "llava_onevision" else {}),
    )
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "stages",
    [
        (),
        (
            ("projector", None, "visionzip", 0.45),
            ("decoder", 2, "fastv", 0.2),
            ("decoder", 4, "withdraw", 0.0),
        ),
        (("projector", None, "hired", 0.5), ("decoder", 3, "sparsevlm", 0.2)),
        (("decoder", 2, "dart", 0.3),),
    ],
    ids=["uncompressed", "projector, decoder, withdrawal", "maps of tiles, joint budgets", "decoder"],
)
@pytest.mark.filterwarnings("ignore:autotc. this policy is unverified")
def test_exact_flops_are_those_pytorch_counts(kind: str, stages: tuple[Any, ...]) -> None:
    """Tower and projector over every tile, the decoder over base and map; within 1 %, as for the other families."""
    model, (width, height), text = large(kind), (500, 430), 40
    numbers = anatomy(model)
    seen = numbers.image.views(width, height)
    assert seen.tiles == 5 and seen.tokens >= 1024
    ids = torch.tensor([[1, *[500] * seen.tokens, *range(4, 3 + text)]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 5, 3, 224, 224),
        "image_sizes": torch.tensor([[height, width]]),
    }
    request = Request(width=width, height=height, prompt_tokens=text, new_tokens=3)
    reference = ModelRef(
        family=kind, decoder_layers=numbers.decoder.layers, vision_blocks=numbers.vision.blocks
    )
    cut = Policy(
        model=reference,
        stages=tuple(Stage(site=s, layer=j, reducer=r, keep=k) for s, j, r, k in stages),
    )
    cost = estimate(cut, numbers, Workload((request,)))
    with compress(model, cut) as handle:
        found = counted(model, inputs, 3)
        kept = [int(entry["kept"].sum()) for entry in handle.trace]
    assert (kept or [seen.tokens])[-1] == cost.final_tokens
    error = cost.tflops_exact / found - 1
    print(f"{kind}, {stages}: estimated {cost.tflops_exact:.4f}, counted {found:.4f} ({error:+.3%})")
    assert abs(error) < (0.01 if stages else 1e-9), cost.parts
