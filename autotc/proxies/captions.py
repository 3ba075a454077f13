"""Texts about scenes for the contrastive training of CLIP: captions, and phrases about one thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autotc.proxies import vocabulary as v
from autotc.proxies.llava import CONTEXT
from autotc.tasks.scenes import COLORS, PLACES, PLURALS, QUARTERS, SHAPES, SIDES, Scene, Thing

PHRASES = 3  # an image
SHORT = 12  # tokens of the longest phrase, first and last token included
_DIGITS = tuple("0123456789")


@dataclass
class Texts:
    """What is said about B scenes.

    ``captions`` (B, CONTEXT) ids, ``wrong`` (B, CONTEXT) the same with one word changed so that it no
    longer holds; ``phrases`` (B * PHRASES, SHORT), image by image; ``holds`` (B * PHRASES, B) bool,
    whether a phrase speaks of something that is in an image.
    """

    captions: Tensor
    wrong: Tensor
    phrases: Tensor
    holds: Tensor

    def to(self, device: str) -> Texts:
        """Return the texts on a device."""
        return Texts(*(part.to(device) for part in vars(self).values()))


def write(scenes: list[Scene], seed: int) -> Texts:
    """Write the texts of a batch of scenes; the same arguments give the same texts."""
    rng = np.random.default_rng([seed, 9])
    captions, wrong, phrases, abouts = [], [], [], []
    for scene in scenes:
        right, false = caption(rng, scene)
        captions.append(ids(right, CONTEXT))
        wrong.append(ids(false, CONTEXT))
        for _ in range(PHRASES):
            text, about = phrase(rng, scene)
            phrases.append(ids(text, SHORT))
            abouts.append(about)
    holds = [[_holds(about, scene) for scene in scenes] for about in abouts]
    return Texts(torch.tensor(captions), torch.tensor(wrong), torch.tensor(phrases), torch.tensor(holds))


def ids(text: str, length: int) -> list[int]:
    """Return a text's tokens with the first and the last one, padded to a length.

    Raises:
        ValueError: the text is longer.
    """
    found = [v.START, *v.encode(text), v.PAD]
    if len(found) > length:
        raise ValueError(f"{text!r}: {len(found)} tokens, at most {length} fit")
    return found + [v.PAD] * (length - len(found))


def caption(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """Name up to four things with colour and quarter, perhaps the tag; then the same with one error."""
    height, width = scene.image.shape[:2]
    order = rng.permutation(len(scene.things))[: rng.integers(1, 5)]
    parts = []
    for i in order:
        thing = scene.things[i]
        x, y = thing.center
        parts.append([thing.color, thing.name, QUARTERS[2 * (y > height / 2) + (x > width / 2)]])
    if scene.tag is not None and (not parts or rng.random() < 0.4):
        parts.insert(rng.integers(len(parts) + 1), ["box", *scene.tag.digits])
    if not parts:
        return "", "a"  # an empty scene; there is hardly ever one
    false = [list(part) for part in parts]
    part = false[rng.integers(len(false))]
    place = int(rng.integers(part[0] == "box", len(part)))
    part[place] = _other(rng, part[place])
    # An error may by chance describe another thing of the scene: it is one among many negatives.
    return " , ".join(map(" ".join, parts)), " , ".join(map(" ".join, false))


def _other(rng: np.random.Generator, word: str) -> str:
    """Return another word of the same kind."""
    kind = next(kind for kind in (tuple(COLORS), SHAPES, QUARTERS, _DIGITS) if word in kind)
    rest = [other for other in kind if other != word]
    return rest[rng.integers(len(rest))]


def phrase(rng: np.random.Generator, scene: Scene) -> tuple[str, tuple[str, str]]:
    """Write a phrase or question about one thing of a scene, and its name and colour.

    A name or colour that the text does not give is empty; a kind of thing stands for an unknown name.
    """
    if scene.tag is not None and (not scene.things or rng.random() < 0.2):
        digits = " ".join(scene.tag.digits)
        place = PLACES[rng.integers(len(scene.tag.digits))]
        about_tag = (f"box {digits}", "read the box .", f"{place} digit in the box ?")
        chosen = int(rng.integers(len(about_tag)))
        return about_tag[chosen], (scene.tag.digits if chosen == 0 else "", "box")
    if not scene.things:
        return "a", ("", "")
    thing = scene.things[rng.integers(len(scene.things))]
    name, color, kind = thing.name, thing.color, thing.kind
    side = SIDES[rng.integers(len(SIDES))]
    texts = (
        f"{color} {name}",
        f"a {color} {name}",
        f"is there a {color} {name} ?",
        f"what {kind} is {color} ?",
        f"what color is the {name} ?",
        f"where is the {name} ?",
        f"what digit is {side} the {name} ?",
        f"what shape is {side} the {name} ?",
        f"how many {PLURALS.get(name, 'digits')} ?",
    )
    chosen = int(rng.integers(len(texts)))
    if chosen < 3:
        return texts[chosen], (name, color)
    if chosen == 3:
        return texts[chosen], (kind, color)
    if chosen == 8 and kind == "digit":
        return texts[chosen], (kind, "")
    return texts[chosen], (name, "")


def _holds(about: tuple[str, str], scene: Scene) -> bool:
    name, color = about
    if color == "box":
        return scene.tag is not None and name in ("", scene.tag.digits)
    return any(_fits(name, color, thing) for thing in scene.things)


def _fits(name: str, color: str, thing: Thing) -> bool:
    return name in ("", thing.name, thing.kind) and color in ("", thing.color)
