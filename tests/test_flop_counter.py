"""The exact convention against what PyTorch counts while the model really runs, with MATH attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autotc.adapter import anatomy
from autotc.cost import Cost, estimate
from autotc.policy import ModelRef, Policy, Stage
from autotc.workload import Request, Workload

TEXT = 40
IMAGE_ID = 500


@dataclass
class Case:
    """A tiny random model of a family, how to ask it about images, and pixels a token side."""

    model: nn.Module
    inputs: Callable[..., dict[str, Tensor]]
    pixels: int

    def counted(self, rows: int, columns: int, images: int = 1, new_tokens: int = 1) -> float:
        """Return the TFLOP per 1,000 requests that PyTorch counts over a whole `generate`."""
        return self.counted_on(self.inputs(rows, columns, images), new_tokens)

    def counted_on(self, inputs: dict[str, Tensor], new_tokens: int) -> float:
        """The same for given inputs."""
        lengths = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.model.generate(**inputs, **lengths, do_sample=False, pad_token_id=0)  # type: ignore[operator]
        return counter.get_total_flops() / 1e9

    def workload(self, rows: int, columns: int, images: int = 1, new_tokens: int = 1) -> Workload:
        """The same request as a workload."""
        size = {"width": columns * self.pixels, "height": rows * self.pixels}
        return Workload((Request(images=images, prompt_tokens=TEXT, new_tokens=new_tokens, **size),))

    def policy(self, *stages: tuple[str, int | None, float, str]) -> Policy:
        """A policy of (site, layer, keep, reducer) stages for this model."""
        found = anatomy(self.model)
        return Policy(
            model=ModelRef(
                family=found.family,
                decoder_layers=found.decoder.layers,
                vision_blocks=found.vision.blocks,
            ),
            stages=tuple(
                Stage(site=s, layer=j, keep=k, reducer=r)  # type: ignore[arg-type]
                for s, j, k, r in stages
            ),
        )


def _prompt(tokens: int, images: int) -> Tensor:
    """(1, TEXT + images * tokens) ids: a token, the images, then the rest of the text."""
    image = torch.full((tokens,), IMAGE_ID)
    between = torch.tensor([3])
    parts = [torch.tensor([1])]
    for _ in range(images):
        parts += [image, between]
    return torch.cat([*parts, torch.arange(4, TEXT + 3 - images)])[None]


def _qwen(model_type: str) -> Case:
    from transformers import AutoConfig, AutoModelForImageTextToText

    patch, extra = (16, {"head_dim": 32}) if model_type == "qwen3_vl" else (14, {})
    vision: dict[str, Any] = {
        "depth": 4,
        "num_heads": 2,
        "patch_size": patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if model_type == "qwen2_5_vl":
        vision |= {"hidden_size": 64, "intermediate_size": 152, "window_size": 112, "out_hidden_size": 128}
        vision |= {"fullatt_block_indexes": [3]}
    elif model_type == "qwen3_vl":
        vision |= {"hidden_size": 64, "intermediate_size": 152, "out_hidden_size": 128}
        vision |= {"deepstack_visual_indexes": [0, 2], "num_position_embeddings": 256}
    else:
        vision |= {"embed_dim": 64, "hidden_size": 128, "mlp_ratio": 4}
    config = AutoConfig.for_model(
        model_type,
        text_config={
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            **extra,
        },
        vision_config=vision,
        image_token_id=IMAGE_ID,
        video_token_id=501,
        vision_start_token_id=502,
        vision_end_token_id=503,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()

    def inputs(rows: int, columns: int, images: int) -> dict[str, Tensor]:
        ids = _prompt(rows * columns, images)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE_ID).long(),
            "pixel_values": torch.randn(images * rows * columns * 4, 3 * 2 * patch**2),
            "image_grid_thw": torch.tensor([[1, 2 * rows, 2 * columns]] * images),
        }

    return Case(model, inputs, 2 * patch)


def _internvl() -> Case:
    """Tiles of 16 x 16 tokens; rows and columns are those of the arrangement of tiles."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(
        "internvl",
        text_config={
            "model_type": "qwen3",
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 448,
            "patch_size": 14,
        },
        image_token_id=IMAGE_ID,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()

    def inputs(rows: int, columns: int, images: int, side: int = 448) -> dict[str, Tensor]:
        tiles = rows * columns + (rows * columns > 1)
        ids = _prompt(tiles * (side // 28) ** 2, images)
        pixels = torch.randn(images * tiles, 3, side, side)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    return Case(model, inputs, 448)


def _llava() -> Case:
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(
        "llava",
        text_config={
            "model_type": "llama",
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": 512,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 2,
            "image_size": 448,
            "patch_size": 14,
            "projection_dim": 64,
        },
        image_token_index=IMAGE_ID,
        image_seq_length=1024,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()

    def inputs(rows: int, columns: int, images: int) -> dict[str, Tensor]:
        ids = _prompt(rows * columns, images)
        pixels = torch.randn(images, 3, rows * 14, columns * 14)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    return Case(model, inputs, 14)


@cache
def case(family: str) -> Case:
    """The tiny model of a family; "qwen2_vl" is the older tower of the Qwen family."""
    own = {"llava": _llava, "internvl": _internvl}
    return own[family]() if family in own else _qwen(family)


# 27 x 38: windows of four sizes; InternVL: 2 x 2 tiles and the thumbnail, 1,280 tokens
GRIDS = {
    "qwen2_5_vl": (27, 38),
    "qwen2_vl": (32, 32),
    "qwen3_vl": (32, 33),
    "llava": (32, 32),
    "internvl": (2, 2),
}


def assert_close(cost: Cost, counted: float, what: str) -> None:
    """Fail beyond 1 %, with the figures."""
    error = cost.tflops_exact / counted - 1
    print(f"{what}: estimated {cost.tflops_exact:.4f}, counted {counted:.4f} ({error:+.3%})")
    assert abs(error) < 0.01, (
        f"{what}: estimated {cost.tflops_exact}, counted {counted} ({error:+.2%}); {cost.parts}"
    )


@pytest.mark.parametrize("family", list(GRIDS))
def test_the_uncompressed_model(family: str) -> None:
    it, (rows, columns) = case(family), GRIDS[family]
    cost = estimate(None, anatomy(it.model), it.workload(rows, columns, new_tokens=5))
    assert cost.entering_tokens == (1280 if family == "internvl" else rows * columns) >= 1024
    counted = it.counted(rows, columns, new_tokens=5)
    assert cost.tflops_exact == pytest.approx(counted, rel=1e-9), (cost.parts, counted)  # nothing is left out


def test_two_images() -> None:
    it = case("qwen2_5_vl")
    cost = estimate(None, anatomy(it.model), it.workload(9, 14, images=2))
    assert cost.entering_tokens == 2 * 9 * 14
    assert cost.tflops_exact == pytest.approx(it.counted(9, 14, images=2), rel=1e-9)


class Pictures:
    """A processor for tests: pixels are random, only sizes matter."""

    def __init__(self, it: Case) -> None:
        self.it = it

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> dict[str, Tensor]:
        crop = kwargs.get("crop_size")  # only where every image becomes one square
        width, height = (crop["width"], crop["height"]) if crop else images[0].size
        tile = None if crop else kwargs.get("size", {}).get("height")  # only where images become tiles
        if tile is not None:
            return self.it.inputs(height // tile, width // tile, len(images), tile)
        return self.it.inputs(height // self.it.pixels, width // self.it.pixels, len(images))


POLICIES: dict[str, tuple[tuple[str, int | None, float, str], ...]] = {
    "projector, decoder, withdrawal": (
        ("projector", None, 0.45, "visionzip"),
        ("decoder", 2, 0.2, "fastv"),
        ("decoder", 4, 0.0, "withdraw"),
    ),
    "vision and decoder": (("vision", 2, 0.5, "uniform"), ("decoder", 3, 0.2, "pyramiddrop")),
    "the last block's attention, text rows": (
        ("projector", None, 0.5, "fastervlm"),
        ("decoder", 2, 0.2, "sparsevlm"),
    ),
    "input": (("input", None, 0.5, "downsample"), ("decoder", 2, 0.2, "dart")),
}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava", "internvl"])
@pytest.mark.parametrize("name", list(POLICIES))
@pytest.mark.filterwarnings("ignore:autotc. this policy is unverified")
def test_under_a_policy(family: str, name: str) -> None:
    check_policy(family, POLICIES[name], name)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "internvl"])
@pytest.mark.filterwarnings("ignore:autotc. this policy is unverified")
def test_tokens_merged_inside_the_tower(family: str) -> None:
    stages = (("vision", 1, 0.75, "tome"), ("vision", 3, 0.5, "tome"), ("projector", None, 0.4, "random"))
    check_policy(family, stages, "tome")


def check_policy(family: str, stages: tuple[tuple[str, int | None, float, str], ...], name: str) -> None:
    """Run a policy and compare; its real counts must be the asked ones."""
    from PIL import Image

    from autotc import compress

    it, (rows, columns) = case(family), GRIDS[family]
    policy = it.policy(*stages)
    uncompressed = estimate(None, anatomy(it.model), it.workload(rows, columns, new_tokens=3))
    cost = estimate(policy, anatomy(it.model), it.workload(rows, columns, new_tokens=3))
    processor = Pictures(it)
    with compress(it.model, policy, processor) as handle:
        inputs = processor(images=[Image.new("RGB", (columns * it.pixels, rows * it.pixels))])
        counted = it.counted_on(inputs, 3)
        final = [int(entry["kept"].sum()) for entry in handle.trace][-1]
    assert final == cost.final_tokens, (handle.trace, cost)
    assert_close(cost, counted, f"{family}, {name}")
    assert counted < uncompressed.tflops_exact
