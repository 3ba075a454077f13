"""Batches for the proxy models: packed questions, and what each visual token shows.

Everything follows from integers: the same seeds give the same batch on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from autotc.proxies import vocabulary as v
from autotc.proxies.model import CELL
from autotc.tasks import scenes

QUESTIONS = 8  # an image
BLOCK = 12  # tokens of the longest question with its suffix and answer
IGNORE = -100
SLOW = {"where": 5.0, "relation": 4.0, "count": 2.0}  # weights of groups that are learned last
_NAMES = {name: i + 1 for i, name in enumerate([*map(str, range(10)), *scenes.SHAPES])}
_COLORS = {name: i + 1 for i, name in enumerate(scenes.COLORS)}
# Classes of the dense labels: object, colour, and the tag digit (with its place) whose middle lies
# in the left or in the right half of the token; class 0 is "nothing".
DENSE = (len(_NAMES) + 1, len(_COLORS) + 1, 41, 41)


@dataclass
class Batch:
    """B images of one size with Q questions each.

    ``images`` (B, H, W, 3) uint8; ``tokens``, ``targets`` (B, Q, T), targets being ``IGNORE`` but
    where an answer token or the end is predicted; ``weights`` (B, Q, T) of the loss; ``groups``
    (B, Q) index of the question group, -1 for an empty block; ``dense`` (B, N, 4) labels.
    """

    images: Tensor
    tokens: Tensor
    targets: Tensor
    weights: Tensor
    groups: Tensor
    dense: Tensor

    @property
    def rows(self) -> int:
        """Rows of the grid of visual tokens."""
        return self.images.shape[1] // CELL

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        return Batch(*(part.to(device) for part in vars(self).values()))


def make_batch(
    seeds: range,
    split: Literal["train", "test"],
    size: int | tuple[int, int] = 168,
    canvas: int | tuple[int, int] | None = None,
    objects: tuple[int, int] | None = None,
) -> Batch:
    """Draw one scene a seed and pack its questions; see ``scenes.draw_scene``."""
    return pack(draw(seeds, split, size, canvas, objects))


def draw(
    seeds: range,
    split: Literal["train", "test"],
    size: int | tuple[int, int] = 168,
    canvas: int | tuple[int, int] | None = None,
    objects: tuple[int, int] | None = None,
) -> list[scenes.Scene]:
    """Draw one scene a seed; see ``scenes.draw_scene``."""
    return [
        scenes.draw_scene(seed, digits=split, size=size, canvas=canvas, objects=objects, questions=QUESTIONS)
        for seed in seeds
    ]


def pack(drawn: list[scenes.Scene], weights_of: Mapping[str, float] = SLOW) -> Batch:
    """Pack the questions of scenes of one size, and label what each visual token shows.

    ``weights_of`` are the groups whose answers do not weigh 1.
    """
    shape = (len(drawn), QUESTIONS, BLOCK)
    tokens, targets = np.full(shape, v.PAD), np.full(shape, IGNORE)
    weights, groups = np.zeros(shape, np.float32), np.full(shape[:2], -1)
    for i, scene in enumerate(drawn):
        for j, question in enumerate(scene.questions):
            ask, answer = v.encode(f"{question.text} {v.SUFFIX}"), v.encode(question.answer)
            first, last = len(ask) - 1, len(ask) + len(answer) - 1
            tokens[i, j, : last + 1] = ask + answer
            targets[i, j, first : last + 1] = [*answer, v.END]
            # A long answer counts more than a short one, but not in proportion.
            share = weights_of.get(question.group, 1.0)
            weights[i, j, first:last] = share * len(answer) ** -0.5
            weights[i, j, last] = 0.1
            groups[i, j] = scenes.GROUPS.index(question.group)
    return Batch(
        torch.from_numpy(np.stack([scene.image for scene in drawn])),
        torch.from_numpy(tokens),
        torch.from_numpy(targets),
        torch.from_numpy(weights),
        torch.from_numpy(groups),
        torch.from_numpy(np.stack([_dense(scene) for scene in drawn])),
    )


def _dense(scene: scenes.Scene) -> np.ndarray:
    """Label each visual token with what covers its middle, (N, 4) classes of ``DENSE``."""
    rows, cols = scene.image.shape[0] // CELL, scene.image.shape[1] // CELL
    labels = np.zeros((rows, cols, 4), np.int64)
    y, x = (np.arange(rows)[:, None] + 0.5) * CELL, (np.arange(cols) + 0.5) * CELL
    for thing in scene.things:
        x0, y0, x1, y1 = thing.box
        inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
        cx, cy = thing.center
        inside[int(cy // CELL), int(cx // CELL)] = True  # also the smallest thing is somewhere
        labels[inside, 0], labels[inside, 1] = _NAMES[thing.name], _COLORS[thing.color]
    if scene.tag is not None:
        for place, (digit, cell) in enumerate(zip(scene.tag.digits, scene.tag.cells, strict=True)):
            cx, cy = (cell[0] + cell[2]) / 2, (cell[1] + cell[3]) / 2
            half = 2 + int(cx / CELL % 1 >= 0.5)
            labels[int(cy // CELL), int(cx // CELL), half] = 1 + 10 * place + int(digit)
    return labels.reshape(rows * cols, 4)
