"""Measure a proxy model for its card: ``python -m autotc.proxies.evaluate_card NAME --out FOLDER``.

Writes ``metrics.json`` and ``README.md``. All questions are about scenes with handwriting the model
never saw; rows of a table share their questions. Nothing was tuned on these tables.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotc.proxies import data, folder, llava, names, pruning
from autotc.proxies.card import write_card
from autotc.proxies.watch_clip import Watch
from autotc.tasks.scenes import GROUPS

FIRST_SEED = 5_000_000  # far from the seeds that training validates on
KEEPS = (0.75, 0.5, 0.33, 0.22, 0.11, 0.05)
FULLER = (6, 9)  # objects in the scenes of the built-in task
SIZES = (56, 84, 112, 140, 224)  # besides 168; the scenes are the same, made smaller or larger
Rule = Callable[..., Tensor]  # (samples, k) -> the kept tokens, (n, K)


def top(scores: Callable[[pruning.Samples], Tensor]) -> Rule:
    """Keep the tokens with the largest scores."""

    def rule(samples: pruning.Samples, k: int) -> Tensor:
        return scores(samples).topk(k, -1).indices

    return rule


def even(samples: pruning.Samples, k: int) -> Tensor:
    """Keep every (N/k)-th token in raster order."""
    n = samples.visual.shape[1]
    return ((torch.arange(k) + 0.5) * n / k).long().expand(len(samples.seeds), -1)


def scored(name: str) -> Rule:
    """Keep the tokens with the largest scores of the tower."""
    return top(lambda samples: samples.scores[name])


def rules(forward: pruning.Watching, samples: pruning.Samples) -> dict[tuple[str, int], Rule]:
    """Return the rules of the trade-off table by name and layer (0: before the decoder)."""
    table: dict[tuple[str, int], Rule] = {("random", 0): top(pruning.random_scores), ("stride", 0): even}
    table |= {(name, 0): scored(name) for name in samples.scores}
    table["norm", 0] = top(lambda some: some.visual.norm(dim=-1))
    table["divprune", 0] = pruning.diverse
    for layer in (2, 4, len(forward.text.layers) // 2):
        table["random", layer] = top(pruning.random_scores)
        table["fastv", layer] = top(partial(pruning.prompt_attention, forward, layer=layer - 1))
    return table


def load(path: Path) -> pruning.Watching:
    """Load a proxy's folder, in fp32."""
    from transformers import LlavaForConditionalGeneration, Qwen2_5_VLForConditionalGeneration

    kind = json.loads((path / "config.json").read_text())["model_type"]
    if kind == "llava":
        llava_model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
        return pruning.WatchingLlava(llava_model, llava.load_text(path))
    return pruning.WatchingQwen(
        Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    )


def measure(path: str, seeds: list[tuple[int, int]]) -> dict[str, list[bool]]:
    """Return, for each setting by name, which of the samples were answered right."""
    torch.set_num_threads(1)
    forward = load(Path(path))
    right: dict[str, Tensor] = {}
    with torch.no_grad():
        samples = pruning.collect(forward, seeds, 168, 168)
        depth = len(forward.text.layers)
        pruning.remember(forward, samples, set(range(1, depth)))
        right["full"] = pruning.answer(forward, samples)
        for layer in range(depth):
            right[f"withdraw@{layer}"] = pruning.answer(
                forward, samples, layer, lambda s: torch.empty(len(s.seeds), 0, dtype=torch.long)
            )
        for (name, layer), rule in rules(forward, samples).items():
            for keep in KEEPS:
                count = int(keep * 144 + 0.5)
                right[f"{name}@{layer} {count}"] = pruning.answer(
                    forward, samples, layer, partial(rule, k=count)
                )
        other = pruning.collect(forward, seeds, 168, 168)
        other.visual = other.visual.roll(1, 0)
        right["wrong image"] = pruning.answer(forward, other)
        for size in SIZES:
            right[f"size {size}"] = pruning.answer(forward, pruning.collect(forward, seeds, size, 168))
        larger = pruning.choose_seeds(len(seeds), FIRST_SEED + 10**6 + seeds[0][0], 224)
        right["canvas 224"] = pruning.answer(forward, pruning.collect(forward, larger, 224, 224))
        fuller = pruning.choose_seeds(len(seeds), FIRST_SEED + 10**7 + seeds[0][0], 168, FULLER)
        right["fuller"] = pruning.answer(forward, pruning.collect(forward, fuller, 168, 168, FULLER))
    return {name: values.tolist() for name, values in right.items()}


def watch(path: Path, images: int = 256) -> dict[str, float]:
    """Return what the CLIP half of a proxy sees on scenes of the card, nothing where it has none."""
    forward = load(path)
    if not isinstance(forward, pruning.WatchingLlava):
        return {}
    watching = Watch(forward, forward.clip, None)
    for first in range(FIRST_SEED, FIRST_SEED + images, 32):
        watching.add(data.draw(range(first, first + 32), "test"), first)
    return watching.result()


def majority(seeds: list[tuple[int, int]]) -> list[bool]:
    """Return which samples the most frequent answer of their group gets right."""
    asked = [(group, pruning.ask(seed, group, 168, 168)[1].answer) for seed, group in seeds]
    count = {g: Counter(a for h, a in asked if h == g) for g in range(len(GROUPS))}
    return [answer == count[group].most_common(1)[0][0] for group, answer in asked]


def figure(right: np.ndarray) -> dict[str, float]:
    """Return accuracy with its standard error and n."""
    p, n = float(right.mean()), len(right)
    return {"value": round(p, 4), "stderr": round((p * (1 - p) / n) ** 0.5, 4), "n": n}


def evaluate(path: Path, n: int, processes: int) -> dict[str, Any]:
    """Measure everything on n samples, shared among processes."""
    seeds = pruning.choose_seeds(n, FIRST_SEED)
    shards = [seeds[i * n // processes : (i + 1) * n // processes] for i in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = pool.starmap(measure, [(str(path), shard) for shard in shards])
    right = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    right["majority"] = np.array(majority(seeds))
    groups = np.array([group for _, group in seeds])
    settings = {}
    for name, values in right.items():
        settings[name] = figure(values) | {
            "groups": {g: round(float(values[groups == i].mean()), 4) for i, g in enumerate(GROUPS)}
        }
    return {
        "metric": "accuracy",
        "unit": "fraction of questions answered exactly",
        "split": "held-out (unseen handwriting)",
        "first_seed": FIRST_SEED,
        "visual_tokens": 144,
        "settings": settings,
    } | ({"clip": seen} if (seen := watch(path)) else {})


def main() -> None:
    """Read the command line and write the card."""
    parser = argparse.ArgumentParser(prog="python -m autotc.proxies.evaluate_card", description=__doc__)
    parser.add_argument("name", nargs="?", choices=names(), default="qwen2_5_vl-tiny")
    parser.add_argument("--model", type=Path, help="folder instead of the shipped proxy of that name")
    parser.add_argument("--out", type=Path, required=True, help="folder of the card")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    path = options.model or folder(options.name)
    metrics = evaluate(path, options.examples, options.processes)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    write_card(path, options.out)


if __name__ == "__main__":
    main()
