"""A shipped proxy that plays the real model, a user's data, and fakes in the place of everything that computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from autotc._outcomes import Outcomes
from autotc.policy import Policy
from autotc.proxies import folder
from autotc.tasks.scenes import Scenes
from tests.fakes import FakeEvaluator


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


def plain_jsonl(where: Path, images: int = 30) -> Path:
    """Write plain pictures with two questions each: for tests in which a fake answers them."""
    lines = []
    for i in range(images):
        Image.new("RGB", (168, 168), (8 * i % 256, 90, 200 - i)).save(where / f"{i}.png")
        for name, answer in (("colour", "blue"), ("count", "2")):
            lines.append({"image": f"{i}.png", "question": f"which {name}?", "answer": answer, "group": name})
    data = where / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


class NamedFake(FakeEvaluator):
    """A fake evaluator that stands for a model by its name, and can be used where a process is."""

    def __init__(self, on: str, size: int, trouble: Callable[[Policy | None, str], None] | None) -> None:
        super().__init__(trouble=trouble, size=size)
        self.on = on

    def evaluate(self, policy: Policy | None, split: str, n: int, *, start: int = 0) -> Outcomes:
        return replace(super().evaluate(policy, split, n, start=start), on=self.on)

    def __enter__(self) -> NamedFake:
        return self

    def __exit__(self, *args: object) -> None:
        return None


@dataclass
class Fakes:
    """Makes evaluators in the place of `running.make_evaluator` and `EvaluatorProcess`, and remembers what ran.

    Args:
        trouble: called with (name of the model, policy, split) before each evaluation; may raise.
        examples: of each split of the user's data.
    """

    trouble: Callable[[str, Policy | None, str], None] = lambda on, policy, split: None
    examples: int = 4096
    calls: list[tuple[str, str | None, str, int]] = field(default_factory=list)

    def evaluator(
        self,
        folder: Path,
        data: str | None,
        skip_bad: bool,
        on: str,
        processes: int = 1,
        device: str = "auto",
    ) -> NamedFake:
        return self.named(on, 4096 if data is None else self.examples)

    def process(self, folder: Path, task: Any, *, on: str, **options: Any) -> NamedFake:
        return self.named(on, self.examples)

    def named(self, on: str, size: int) -> NamedFake:
        def before(policy: Policy | None, split: str) -> None:
            self.trouble(on, policy, split)
            self.calls.append((on, None if policy is None else policy.id, split, size))

        return NamedFake(on, size, before)
