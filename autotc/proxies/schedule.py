"""What is trained when: stages, image sizes, learning rate and dropping, by progress 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Size = int | tuple[int, int]


@dataclass(frozen=True)
class View:
    """One kind of input: image size, size of the canvas, batch size (a process), objects."""

    size: Size
    canvas: Size
    batch: int
    objects: tuple[int, int] | None = None


@dataclass(frozen=True)
class Stage:
    """A part of training that ends at progress ``until`` and draws its views by ``shares``."""

    name: str
    until: float
    views: tuple[View, ...]
    shares: tuple[float, ...] = (1.0,)
    tower_only: bool = False
    drops: bool = False


# The tower alone learns to name what it sees, then everything learns on small images, then on all
# sizes. Most small images are standard scenes made smaller, so that downsampling is a fair rival.
STAGES = (
    Stage("tower", 0.055, (View(112, 112, 24, (2, 4)),), tower_only=True),
    Stage("small", 0.25, (View(112, 112, 24, (2, 4)),)),
    Stage(
        "mixed",
        1.0,
        (
            View(168, 168, 16),
            View(112, 168, 24),
            View(112, 112, 24),
            View(140, 168, 16),
            View(224, 224, 8),
            View((112, 168), (112, 168), 16),
            View((168, 112), (168, 112), 16),
        ),
        (0.68, 0.20, 0.02, 0.05, 0.03, 0.01, 0.01),
        drops=True,
    ),
)
# For models that only ever see small scenes, of which several are trained with different seeds.
SMALL_STAGES = (
    Stage("tower", 0.27, (View(112, 112, 24, (2, 4)),), tower_only=True),
    Stage("small", 0.6, (View(112, 112, 24, (2, 4)),)),
    Stage("drops", 1.0, (View(112, 112, 24, (2, 4)),), drops=True),
)
COMPILED = (112, 168)  # sizes used often enough to repay a minute of compilation each

WARMUP = 100  # steps
DECAY_FROM = 0.60  # progress at which the learning rate starts to fall to 0
DROP_SHARE, BLIND_SHARE, LATE_SHARE = 0.10, 0.3, 0.08


def stage_at(progress: float, stages: tuple[Stage, ...] = STAGES) -> Stage:
    """Return the stage at a progress of 0 to 1."""
    return next((stage for stage in stages if progress < stage.until), stages[-1])


def rate_at(progress: float, step: int, stage_step: int) -> float:
    """Return the factor on the learning rate: warm-ups, constant, then linear to 0."""
    warm = min(1.0, (step + 1) / WARMUP, (stage_step + 1) / 30)
    return warm * min(1.0, max(0.0, (1 - progress) / (1 - DECAY_FROM)))


def dense_weight_at(progress: float, stage: Stage) -> float:
    """Return the weight of the dense loss: 1 for the tower alone, then 0.5 falling to 0.05."""
    if stage.tower_only:
        return 1.0
    return max(0.05, 0.5 - 0.45 * progress / 0.55)


def draw_view(stage: Stage, seed: int, step: int) -> View:
    """Return the view of a step, the same in all processes."""
    rng = np.random.default_rng([seed, step, 1])
    return stage.views[rng.choice(len(stage.views), p=stage.shares)]


def draw_keep(
    batch: int,
    tokens: int,
    rng: np.random.Generator,
    drop_share: float = DROP_SHARE,
    late: tuple[int, int] = (8, 12),
) -> tuple[Tensor, int]:
    """Draw which visual tokens each image may use, (2, batch, tokens) bool, and a depth.

    One image in ten loses tokens before the decoder (three in ten of these all of them, the others
    a random share): otherwise few tokens would be a thing never seen and measure brittleness. A
    few lose all from a late layer on (one of the range ``late``), as large models tolerate it; the
    first half of the result holds before that layer, the second from it on.
    """
    keep = np.ones((2, batch, tokens), bool)
    for i in range(batch):
        if rng.random() < drop_share:
            share = 0.0 if rng.random() < BLIND_SHARE else rng.random()
            keep[:, i] = rng.random(tokens) < share
        elif rng.random() < LATE_SHARE:
            keep[1, i] = False
    return torch.from_numpy(keep), int(rng.integers(*late))
