"""Generated scenes: an image with objects and a number tag, and questions with sure answers.

``draw_scene(seed)`` composes shapes, handwritten digits, clutter and a small tag of three or four
digits on a coloured, noisy ground, and asks up to eight questions of ten groups about it. The same
arguments give the same bytes. Lengths are pixels; boxes are ``(x0, y0, x1, y1)``.

The handwritten digits come from ``digits.npz`` (see ``digits.LICENSE.txt``) and are split once into
digits for training and digits for testing, so a model is always judged on handwriting it never saw.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from autotc.task import Example, Split, Task
from autotc.tasks._questions import (
    COLORS,
    GROUPS,
    PLACES,
    PLURALS,
    QUARTERS,
    SHAPES,
    SIDES,
    Box,
    Question,
    Tag,
    Thing,
    ask,
)

__all__ = [
    "COLORS",
    "GROUPS",
    "PLACES",
    "PLURALS",
    "QUARTERS",
    "SHAPES",
    "SIDES",
    "Box",
    "Picture",
    "Question",
    "Scene",
    "Scenes",
    "Tag",
    "Thing",
    "draw_scene",
    "handwriting",
]


@dataclass(frozen=True)
class Scene:
    """An image (uint8, height x width x 3), questions about it, and what was drawn in it."""

    image: np.ndarray
    questions: tuple[Question, ...]
    things: tuple[Thing, ...]
    tag: Tag | None


@cache
def handwriting(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the digit images (n, 8, 8) with values 0 to 16 and their labels (n,) of one split."""
    if split not in ("train", "test"):
        raise ValueError(f"digits: expected 'train' or 'test', got {split!r}")
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        return file[f"{split}_images"], file[f"{split}_labels"]


def draw_scene(
    seed: int,
    *,
    digits: Literal["train", "test"],
    size: int | tuple[int, int] = 168,
    canvas: int | tuple[int, int] | None = None,
    objects: tuple[int, int] | None = None,
    questions: int = 8,
) -> Scene:
    """Draw one scene.

    Args:
        seed: any non-negative integer; with the other arguments it fixes every byte.
        digits: which handwriting to use; evaluation must use "test".
        size: side of the image, or (height, width), in pixels.
        canvas: size at which the scene is composed before an antialiased resize to ``size``
            (default: ``size``). ``size=112, canvas=168`` is a standard scene seen smaller.
        objects: least and greatest number of objects (default: 4 to 7 on 168 x 168 pixels, and in
            proportion to the area elsewhere, at most 12). Fewer are drawn where they do not fit.
        questions: at most so many questions, groups as even as the scene allows.

    Returns:
        The scene; boxes are in pixels of the final image.
    """
    height, width = _pair(size)
    rows, cols = _pair(canvas or size)
    rng = np.random.default_rng([int(digits == "test"), seed])
    if objects is None:
        share = rows * cols / 168**2
        objects = min(8, max(2, round(4 * share))), min(12, max(3, round(7 * share)))
    paint = _ground(rng, rows, cols)
    taken: list[Box] = []
    tag = _place_tag(rng, paint, digits, taken) if rng.random() < 0.88 else None
    things = _place_things(rng, paint, digits, taken, objects)
    image = np.clip(paint + 0.5, 0, 255).astype(np.uint8)
    if (rows, cols) != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        things, tag = _rescale(things, tag, width / cols, height / rows)
    asked = ask(rng, things, tag, width, height, questions)
    return Scene(image, asked, tuple(things), tag)


# --- drawing ------------------------------------------------------------------------------------


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _ground(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Return a noisy colour gradient with salient but meaningless patches, (rows, cols, 3)."""
    coarse = rng.integers(25, 106) + rng.integers(-25, 26, (5, 5, 3))
    pattern = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    paint = np.array(pattern.resize((cols, rows), Image.Resampling.BICUBIC), np.float32)
    paint += rng.integers(0, 29, (rows, cols, 1), dtype=np.uint8).astype(np.float32) - 14
    for _ in range(rng.integers(1, 5)):
        h, w = rng.integers(10, 37, 2)
        y, x = rng.integers(0, rows - h + 1), rng.integers(0, cols - w + 1)
        if rng.random() < 0.5:
            patch = rng.integers(0, 256, (h, w), dtype=np.uint8).astype(np.float32)
        else:
            step = rng.integers(2, 6)
            board = (np.arange(h)[:, None] // step + np.arange(w) // step) % 2
            low, high = rng.integers(0, 100), rng.integers(140, 256)
            patch = np.where(board, high, low).astype(np.float32)
        alpha = np.full((1, 1, 1), rng.uniform(0.5, 0.95), np.float32)
        _blend(paint, x, y, alpha, patch[..., None])
    return paint


def _blend(paint: np.ndarray, x: int, y: int, alpha: np.ndarray, color: np.ndarray) -> None:
    """Lay ``color`` (h, w, 3 or 1) with opacity ``alpha`` (h, w, 1) on the paint, in place.

    Either may have size 1 in any direction; the corner is at (x, y).
    """
    h, w, _ = np.broadcast_shapes(alpha.shape, color.shape)
    area = paint[y : y + h, x : x + w]
    area += alpha * (color - area)


def _free_spot(
    rng: np.random.Generator, shape: tuple[int, ...], w: int, h: int, taken: list[Box]
) -> tuple[int, int] | None:
    """Find a place for a w x h box that keeps 2 px from every taken one; None after 30 tries."""
    for _ in range(30):
        x, y = int(rng.integers(0, shape[1] - w + 1)), int(rng.integers(0, shape[0] - h + 1))
        if all(x >= b[2] + 2 or x + w + 2 <= b[0] or y >= b[3] + 2 or y + h + 2 <= b[1] for b in taken):
            taken.append((x, y, x + w, y + h))
            return x, y
    return None


def _digit_mask(rng: np.random.Generator, split: str, w: int, h: int) -> tuple[int, np.ndarray]:
    """Return a random digit and the opacity (h, w) of its handwriting."""
    images, labels = handwriting(split)
    index = int(rng.integers(len(labels)))
    grey = Image.fromarray(images[index] * np.uint8(15))
    ink = np.asarray(grey.resize((w, h), Image.Resampling.BICUBIC), np.float32) / 240
    return int(labels[index]), np.clip((ink - 0.2) * 2, 0, 1)


def _shape_mask(name: str, w: int) -> np.ndarray:
    """Return the opacity (w, w) of a shape that fills its box, edges one pixel soft."""
    r = w / 2
    x = np.arange(w, dtype=np.float32)[None] + 0.5 - r
    y = x.reshape(-1, 1)
    if name == "circle":
        out = np.hypot(x, y) - r
    elif name == "ring":
        out = np.abs(np.hypot(x, y) - 0.75 * r) - 0.25 * r
    elif name == "square":
        out = np.maximum(np.abs(x), np.abs(y)) - 0.88 * r
    elif name == "diamond":
        out = (np.abs(x) + np.abs(y) - r) * 0.71
    elif name == "triangle":
        out = np.maximum((2 * np.abs(x) - y - r) / 2.24, y - r)
    elif name == "cross":
        arm, ax, ay = 0.32 * r, np.abs(x), np.abs(y)
        out = np.minimum(np.maximum(ax - arm, ay - r), np.maximum(ax - r, ay - arm))
    else:  # a five-pointed star: fold the plane into one half point, measure from its edge
        turn = 2 * np.pi / 5
        angle = np.abs((np.arctan2(x, -y) + turn / 2) % turn - turn / 2)
        radius = np.hypot(x, y)
        tip, notch = np.array([r, 0]), 0.45 * r * np.array([np.cos(turn / 2), np.sin(turn / 2)])
        nx, ny = notch[1] - tip[1], tip[0] - notch[0]
        out = (radius * np.cos(angle) - r) * nx + radius * np.sin(angle) * ny
        out = out / np.hypot(nx, ny)
    opacity: np.ndarray = np.clip(0.5 - out, 0, 1)
    return opacity


def _place_tag(rng: np.random.Generator, paint: np.ndarray, split: str, taken: list[Box]) -> Tag | None:
    count, w = int(rng.integers(3, 5)), int(rng.integers(9, 13))
    h = w + int(rng.integers(0, 3))
    spot = _free_spot(rng, paint.shape, count * w + 4, h + 4, taken)
    if spot is None:
        return None
    x, y = spot
    light = np.full((h + 4, count * w + 4, 1), rng.integers(200, 250), np.float32)
    _blend(paint, x, y, np.ones((1, 1, 1), np.float32), light)
    text, cells = "", []
    ink = np.full((1, 1, 1), rng.integers(0, 60), np.float32)
    for i in range(count):
        digit, mask = _digit_mask(rng, split, w, h)
        left = x + 2 + i * w
        _blend(paint, left, y + 2, mask[..., None], ink)
        text += str(digit)
        cells.append((left, y + 2, left + w, y + 2 + h))
    return Tag(text, taken[-1], tuple(cells))


def _place_things(
    rng: np.random.Generator,
    paint: np.ndarray,
    split: str,
    taken: list[Box],
    objects: tuple[int, int],
) -> list[Thing]:
    """Draw the objects; in a third of the scenes one shape is repeated, so that counts vary."""
    many = rng.random() < 0.35
    favourite = SHAPES[rng.integers(len(SHAPES))]
    things: list[Thing] = []
    kind: Literal["digit", "shape"]
    for _ in range(rng.integers(objects[0], objects[1] + 1)):
        color = tuple(COLORS)[rng.integers(len(COLORS))]
        tint = np.array(COLORS[color], np.float32) + rng.integers(-10, 11, 3)
        if rng.random() < (0.25 if many else 0.5):
            w = int(rng.integers(20, 34))
            h = int(w * rng.uniform(1, 1.25))
            if (spot := _free_spot(rng, paint.shape, w, h, taken)) is None:
                continue
            digit, mask = _digit_mask(rng, split, w, h)
            kind, name = "digit", str(digit)
        else:
            w = int(rng.integers(16, 32))
            if (spot := _free_spot(rng, paint.shape, w, w, taken)) is None:
                continue
            name = favourite if many and rng.random() < 0.6 else SHAPES[rng.integers(len(SHAPES))]
            kind, mask = "shape", _shape_mask(name, w)
        _blend(paint, *spot, mask[..., None], tint[None, None])
        things.append(Thing(kind, name, color, taken[-1]))
    return things


def _rescale(things: list[Thing], tag: Tag | None, sx: float, sy: float) -> tuple[list[Thing], Tag | None]:
    def scaled(b: Box) -> Box:
        return b[0] * sx, b[1] * sy, b[2] * sx, b[3] * sy

    moved = [Thing(t.kind, t.name, t.color, scaled(t.box)) for t in things]
    if tag is not None:
        tag = Tag(tag.digits, scaled(tag.box), tuple(scaled(cell) for cell in tag.cells))
    return moved, tag


# --- the data set -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """Draws the image of a scene when it is needed."""

    seed: int
    size: int
    objects: tuple[int, int]

    def __call__(self) -> list[Image.Image]:
        """Return the image, alone in a list."""
        scene = draw_scene(self.seed, digits="test", size=self.size, objects=self.objects)
        return [Image.fromarray(scene.image)]


class Scenes(Task):
    """The built-in data: generated scenes with handwriting that no training saw, two questions an image.

    Groups are kept even: of each scene the questions are taken whose groups were asked least so far. The
    splits are ranges of seeds that nothing else uses.

    Args:
        size: side of the images in pixels.
        images: images of a split when no number of examples is asked for.
        objects: least and greatest number of objects in a scene. The default is fuller than what the proxies
            are trained on most (4 to 7), so that the uncompressed model has room to be wrong.
    """

    name: ClassVar[str] = "scenes"
    metric: ClassVar[str] = "accuracy"
    first_seed: ClassVar[dict[str, int]] = {"search": 10**9, "selection": 2 * 10**9, "held-out": 3 * 10**9}

    def __init__(self, size: int = 168, images: int = 512, objects: tuple[int, int] = (6, 9)) -> None:
        self.size, self.images, self.objects = size, images, objects
        self._made: dict[str, list[Example]] = {split: [] for split in self.first_seed}
        self._by_image: dict[tuple[str, str], list[Example]] = {}
        self._drawn = dict.fromkeys(self.first_seed, 0)
        self._asked = {split: Counter[str]() for split in self.first_seed}

    @property
    def fingerprint(self) -> str:
        """A hash of the first scene of each split: another generator is another data set."""
        found = hashlib.sha256(f"{self.size} {self.objects}".encode())
        for first in self.first_seed.values():
            scene = draw_scene(first, digits="test", size=self.size, objects=self.objects)
            found.update(scene.image.tobytes() + repr(scene.questions).encode())
        return found.hexdigest()[:16]

    def examples(self, split: Split, n: int | None = None) -> list[Example]:
        """Return the first `n` examples of a split, by default those of `images` images; any number can be
        had.
        """
        made = self._made[split]
        while self._drawn[split] < self.images if n is None else len(made) < n:
            self._draw(split)
        return made[: 2 * self.images] if n is None else made[:n]

    def sibling(self, split: Split, example: Example) -> Example | None:
        """Return the other question about the same image."""
        return next(
            (e for e in self._by_image[split, example.image] if e.id != example.id),
            None,
        )

    def _draw(self, split: str) -> None:
        seed, asked = self.first_seed[split] + self._drawn[split], self._asked[split]
        self._drawn[split] += 1
        questions = draw_scene(seed, digits="test", size=self.size, objects=self.objects).questions
        for number, question in enumerate(sorted(questions, key=lambda q: asked[q.group])[:2]):
            asked[question.group] += 1
            made = Example(
                f"{seed}-{number}",
                f"scene-{seed}",
                Picture(seed, self.size, self.objects),
                question.text,
                question.answer,
                question.group,
            )
            self._made[split].append(made)
            self._by_image.setdefault((split, made.image), []).append(made)
