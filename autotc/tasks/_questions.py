"""Words of the generated scenes, what is in one, and the questions that can be asked about it.

Referents are unique and no case is a close call, so every answer is sure. Boxes are ``(x0, y0, x1, y1)``
in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Box = tuple[float, float, float, float]

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring")
PLURALS = {name: name + ("es" if name.endswith("s") else "s") for name in SHAPES}
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 220, 50),
    "purple": (150, 50, 190),
    "orange": (240, 140, 30),
    "cyan": (50, 210, 220),
    "pink": (245, 150, 200),
}
PLACES = ("first", "second", "third", "fourth")
QUARTERS = ("topleft", "topright", "bottomleft", "bottomright")
SIDES = ("left of", "right of", "above", "below")
GROUPS = (
    "digit_by_color",
    "color_of_digit",
    "color_of_shape",
    "shape_by_color",
    "exist",
    "count",
    "where",
    "relation",
    "read_place",
    "read_tag",
)


@dataclass(frozen=True)
class Question:
    """One question, its answer (words separated by spaces) and the group it is counted in."""

    text: str
    answer: str
    group: str


@dataclass(frozen=True)
class Thing:
    """One object: a handwritten digit (name "0" to "9") or a shape (a name of ``SHAPES``)."""

    kind: Literal["digit", "shape"]
    name: str
    color: str
    box: Box

    @property
    def center(self) -> tuple[float, float]:
        """The middle of the box, (x, y) in pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class Tag:
    """The light box with small digits: what it reads, and where each digit stands."""

    digits: str
    box: Box
    cells: tuple[Box, ...]


def ask(
    rng: np.random.Generator,
    things: list[Thing],
    tag: Tag | None,
    width: int,
    height: int,
    limit: int,
) -> tuple[Question, ...]:
    """Ask one question of each group in random order, then second ones, up to ``limit``."""
    pools = _about_things(rng, things)
    pools["where"] = _where(things, width, height)
    pools["relation"] = _relation(things, width, height)
    if tag is not None:
        pools["read_tag"] = [Question("read the box .", " ".join(tag.digits), "")]
        pools["read_place"] = [
            Question(f"{place} digit in the box ?", digit, "")
            for place, digit in zip(PLACES, tag.digits, strict=False)
        ]
    for pool in pools.values():
        rng.shuffle(pool)
    order = [GROUPS[i] for i in rng.permutation(len(GROUPS))]
    asked: list[Question] = []
    for turn in range(max(len(pool) for pool in pools.values())):
        for group in order:
            pool = pools.get(group, [])
            if turn < len(pool) and len(asked) < limit:
                asked.append(Question(pool[turn].text, pool[turn].answer, group))
    return tuple(asked)


def _about_things(rng: np.random.Generator, things: list[Thing]) -> dict[str, list[Question]]:
    """Questions about names, colours, existence and number. Referents are unique."""
    pools: dict[str, list[Question]] = {group: [] for group in GROUPS}
    for kind in ("digit", "shape"):
        some = [t for t in things if t.kind == kind]
        for t in some:
            if sum(o.color == t.color for o in some) == 1:
                text = f"what {kind} is {t.color} ?"
                pools[f"{kind}_by_color"].append(Question(text, t.name, ""))
            if sum(o.name == t.name for o in some) == 1:
                text = f"what color is the {t.name} ?"
                pools[f"color_of_{kind}"].append(Question(text, t.color, ""))
    pools["exist"] = _exist(rng, [t for t in things if t.kind == "shape"])
    counts = {name: sum(t.name == name for t in things) for name in SHAPES}
    present = sorted(set(counts.values()))
    for _ in range(2):  # a number first, then a shape of that number: else most answers are 0
        number = present[rng.integers(len(present))]
        names = [name for name in SHAPES if counts[name] == number]
        text = f"how many {PLURALS[names[rng.integers(len(names))]]} ?"
        pools["count"].append(Question(text, str(number), ""))
    if rng.random() < 0.5:
        digits = sum(t.kind == "digit" for t in things)
        pools["count"].append(Question("how many digits ?", str(digits), ""))
        pools["count"].append(Question("how many shapes ?", str(len(things) - digits), ""))
    return pools


def _exist(rng: np.random.Generator, shapes: list[Thing]) -> list[Question]:
    """Half yes; a no mostly names the colour of one shape and the form of another."""
    asked = []
    pairs = {(t.color, t.name) for t in shapes}
    for _ in range(2):
        color, name = tuple(COLORS)[rng.integers(len(COLORS))], SHAPES[rng.integers(len(SHAPES))]
        if shapes and rng.random() < 0.92:
            one = shapes[rng.integers(len(shapes))]
            style = rng.random()
            if style < 0.5:
                color, name = one.color, one.name
            elif style < 0.75:
                color = one.color
            else:
                name = one.name
        answer = "yes" if (color, name) in pairs else "no"
        asked.append(Question(f"is there a {color} {name} ?", answer, ""))
    return asked


def _unique(things: list[Thing]) -> list[Thing]:
    return [t for t in things if sum(o.name == t.name for o in things) == 1]


def _where(things: list[Thing], width: int, height: int) -> list[Question]:
    """Which quarter a thing is in, if its centre is clear of the middle lines by 5 %."""
    asked = []
    for t in _unique(things):
        dx, dy = t.center[0] / width - 0.5, t.center[1] / height - 0.5
        if min(abs(dx), abs(dy)) > 0.05:
            quarter = QUARTERS[2 * (dy > 0) + (dx > 0)]
            asked.append(Question(f"where is the {t.name} ?", quarter, ""))
    return asked


def _relation(things: list[Thing], width: int, height: int) -> list[Question]:
    """The one digit or shape on some side of a unique thing, if no case is a close call."""
    asked = []
    for anchor in _unique(things):
        for kind in ("digit", "shape"):
            others = [t for t in things if t.kind == kind and t is not anchor]
            for side in SIDES:
                axis, size = (0, width) if side in SIDES[:2] else (1, height)
                sign = -1 if side in ("left of", "above") else 1
                shifts = [sign * (t.center[axis] - anchor.center[axis]) / size for t in others]
                inside = [t for t, shift in zip(others, shifts, strict=True) if shift > 0]
                if len(inside) != 1 or len(others) < 2 or min(map(abs, shifts)) < 0.035:
                    continue
                text = f"what {kind} is {side} the {anchor.name} ?"
                asked.append(Question(text, inside[0].name, ""))
    return asked
