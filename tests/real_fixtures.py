"""A shipped proxy that plays the real model, its weights moved by noise, and a user's data made of built-in scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from autotc.proxies import folder
from autotc.tasks.scenes import Scenes


def perturbed(where: Path, noise: float = 0.05, seed: int = 0, name: str = "qwen2_5_vl-tiny") -> Path:
    """Copy a proxy's folder; each tensor of its weights gets noise of a share of its own spread."""
    made = where / "model"
    shutil.copytree(folder(name), made)
    path = made / "model.safetensors"
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(path)
    for key, tensor in weights.items():
        if tensor.is_floating_point() and tensor.numel() > 1:
            spread = noise * tensor.float().std()
            weights[key] = (tensor.float() + spread * torch.randn(tensor.shape, generator=generator)).to(
                tensor.dtype
            )
    save_file(weights, path, metadata={"format": "pt"})
    return made


def scenes_as_jsonl(where: Path, images: int = 120) -> Path:
    """Write scenes that no split of the built-in task holds, two questions an image."""

    class Others(Scenes):
        first_seed = {"search": 7 * 10**8, "selection": 10**9, "held-out": 10**9}

    pictures = where / "pictures"
    pictures.mkdir()
    lines = []
    for example in Others().examples("search", 2 * images):
        path = pictures / f"{example.image}.png"
        if not path.exists():
            example.load()[0].save(path)
        lines.append(
            {
                "image": f"pictures/{path.name}",
                "question": example.question,
                "answer": example.answer,
                "group": example.group,
                "id": example.id,
            }
        )
    data = where / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data
