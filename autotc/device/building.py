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

    Args:
        requests: one a row; they may differ in size.

    Raises:
        UnsupportedError: a family whose images become tiles or views.
    """
    rule, config = anatomy.image, model.config
    if rule.pinpoints or rule.cut:
        raise UnsupportedError(f"{anatomy.family}: images that become tiles cannot be measured yet")
    random = torch.Generator().manual_seed(seed)
    image_token = int(getattr(config, "image_token_id", None) or config.image_token_index)
    around = [getattr(config, f"vision_{end}_token_id", None) for end in ("start", "end")]
    top = min(TEXT[1], anatomy.decoder.vocab)
    rows, grids = [], []
    for request in requests:
        ids: list[int] = []
        text = request.prompt_tokens
        for _ in range(request.images):
            grids.append(rule.grid(request.width, request.height))
            placeholders = [image_token] * (grids[-1][0] * grids[-1][1])
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
    if rule.fixed is not None:
        out["pixel_values"] = torch.randn(len(grids), 3, rule.fixed, rule.fixed, generator=random)
    else:
        unit = rule.merge
        out["image_grid_thw"] = torch.tensor([(1, rows_ * unit, columns * unit) for rows_, columns in grids])
        patches = int(out["image_grid_thw"].prod(1).sum())
        out["pixel_values"] = torch.randn(patches, anatomy.vision.patch_inputs, generator=random)
        out["mm_token_type_ids"] = (out["input_ids"] == image_token).long()
    out["pixel_values"] = out["pixel_values"].to(model.dtype)
    return {name: value.to(device) for name, value in out.items()}
