"""A model of full size with random weights, and prompts of a workload's shape: shapes decide what a device does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autotc.adapter import adapters, resolve_model
from autotc.anatomy import Anatomy
from autotc.errors import UnsupportedError
from autotc.workload import Request

TEXT = (100, 1000)  # token ids of plain text in every vocabulary here


def random_model(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, str]:
    """Return a model in eval mode, and how numbers name it: with its weights where they are at hand, else random ones.

    Args:
        name: an alias, a Hugging Face id or a folder.
    """
    from transformers import AutoModelForImageTextToText

    source = resolve_model(name)
    if source.folder is not None and source.weights:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            source.folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        return model.to(device).eval(), source.id
    entries = {e["id"]: e["config"] for cls in adapters.all() for e in cls.aliases.values()}
    entry = entries.get(source.id)
    if entry is None:
        raise UnsupportedError(
            f"{name}: no weights and no known config; give an alias (autotc list models) or weights"
        )
    return from_numbers(entry, device, dtype), f"{source.id} (random weights)"


def from_numbers(entry: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """Return a model with random weights, in eval mode, from a config in Hugging Face form."""
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    config = CONFIG_MAPPING[entry["model_type"]].from_dict(dict(entry))
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval()


def prompt(
    model: Any, anatomy: Anatomy, requests: list[Request], device: torch.device, seed: int = 0
) -> dict[str, Tensor]:
    """Return the inputs of a batch of prompts, left-padded: images of random pixels, then random text.

    Placeholders, tiles and sizes are what the family's own processor makes of images of these sizes.

    Args:
        requests: one a row; they may differ in size.
    """
    rule, config = anatomy.image, model.config
    random = torch.Generator().manual_seed(seed)
    image_token = int(getattr(config, "image_token_id", None) or config.image_token_index)
    around = [getattr(config, f"vision_{end}_token_id", None) for end in ("start", "end")]
    top = min(TEXT[1], anatomy.decoder.vocab)
    rows: list[list[int]] = []
    for request in requests:
        ids: list[int] = []
        text = request.prompt_tokens
        placeholders = [image_token] * rule.views(request.width, request.height, request.images).tokens
        for _ in range(request.images):
            marks = [m for m in around if m is not None] if text > 2 * request.images else []
            ids += [*marks[:1], *placeholders, *marks[1:]]
            text -= len(marks)
        low = min(TEXT[0], top - 1)
        rows.append(ids + torch.randint(low, top, (max(text, 1),), generator=random).tolist())
    longest = max(map(len, rows))
    pad = 0
    out = {
        "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }
    out |= _images(anatomy, [r for r in requests for _ in range(r.images)], device, model.dtype, seed)
    if "image_grid_thw" in out:
        out["mm_token_type_ids"] = (out["input_ids"] == image_token).long()
    if rule.alone and any(r.images > 1 for r in requests):
        out["batch_num_images"] = torch.tensor([r.images for r in requests])
    return {name: value.to(device) for name, value in out.items()}


def tower_inputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those of a prompt's inputs that the model's `get_image_features` takes."""
    names = ("pixel_values", "image_grid_thw", "image_sizes", "batch_num_images")
    return {name: inputs[name] for name in names if name in inputs}


def _images(
    anatomy: Anatomy, images: list[Request], device: torch.device, dtype: torch.dtype, seed: int
) -> dict[str, Tensor]:
    """Return the pixels of images, a request's size each, in the layout of the family, and what tells their shape."""
    rule = anatomy.image
    drawn = torch.Generator(device).manual_seed(seed)

    def pixels(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn, device=device, dtype=dtype)

    if rule.fixed is None:  # patches of all images behind one another
        grids = [rule.grid(r.width, r.height) for r in images]
        shape = torch.tensor([(1, h * rule.merge, w * rule.merge) for h, w in grids])
        patches = int(shape.prod(1).sum())
        return {"pixel_values": pixels(patches, anatomy.vision.patch_inputs), "image_grid_thw": shape}
    tiles = [rule.views(r.width, r.height, r.images).tiles for r in images]
    if not rule.pinpoints:  # tiles behind one another, of which an image has one unless it is cut
        return {"pixel_values": pixels(sum(tiles), 3, rule.fixed, rule.fixed)}
    found = pixels(len(images), max(tiles), 3, rule.fixed, rule.fixed)
    for image, many in enumerate(tiles):
        found[image, many:] = 0
    return {"pixel_values": found, "image_sizes": torch.tensor([(r.height, r.width) for r in images])}
