"""Small policies, figures and outcomes for the store's tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from autotc.policy import ModelRef, Number, Policy, Stage
from autotc.store import Store

MODEL = ModelRef(family="qwen2_5_vl", id="Qwen/Qwen2.5-VL-7B-Instruct", decoder_layers=28, vision_blocks=32)


def policy(keep: float = 0.5, model: ModelRef = MODEL, **fields: Any) -> Policy:
    stages = (
        Stage(site="projector", reducer="divprune", keep=keep),
        Stage(site="decoder", layer=8, reducer="fastv", keep=keep / 2, params={"heads": "mean"}),
    )
    return Policy(model=model, stages=stages, **fields)


def number(value: float = 0.9, name: str = "quality", split: str | None = "search", n: int = 64) -> Number:
    return Number(
        name=name,
        value=value,
        unit="accuracy",
        kind="measured",
        on="proxy:tiny",
        split=split,
        stderr=0.01,
        n=n,
    )


def outcomes(n: int = 8, start: int = 0, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "id": [f"example-{i}" for i in range(start, start + n)],
        "image": [f"image-{i // 2}" for i in range(start, start + n)],
        "group": [("count", "read")[i % 2] for i in range(start, start + n)],
        "correct": (rng.random(n) > 0.5).astype(float),
        "agreement": rng.random(n) > 0.3,
        "kl": rng.random(n),
        "answer": [f"answer {i}" for i in range(n)],
    }


def start(store: Store, name: str = "s") -> str:
    """Create a study and return its name."""
    store.create_study(name, "f1", {"model": "qwen2.5-vl", "seed": 0}, {"id": MODEL.id}, "proxy:tiny")
    return name


def finish(store: Store, study: str, i: int, n: int = 8) -> int:
    """Enter and finish trial number `i` with `n` outcomes; return its id."""
    trial_id = store.add_trial(study, i, policy(0.9 - i / 1000), params={"keep": 0.9 - i / 1000})
    store.finish_trial(
        trial_id,
        "complete",
        [number(0.5 + i / 1000), number(0.4, "worst_group")],
        {"tflops_exact": 100.0 + i, "parts": {"tower": 3.0}},
        outcomes={"search": outcomes(n, seed=i)},
        trace=[{"stage": 0, "asked": 288.0, "kept": 288.0}, {"stage": 1, "asked": 144.0, "kept": 140.5}],
        seconds=1.5,
    )
    return trial_id
