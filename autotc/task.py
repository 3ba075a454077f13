"""What a data set gives: examples, a scorer, a metric."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

Split = Literal["search", "selection", "held-out"]
SPLITS: tuple[Split, ...] = ("search", "selection", "held-out")


class Loader(Protocol):
    """Loads the pictures of an example when they are needed."""

    def __call__(self) -> list[Image]: ...


@dataclass(frozen=True)
class Example:
    """One question about one or several images.

    Args:
        id: unique in its task.
        image: key of the image(s); examples with the same key share them, and splits never share a key.
        load: returns the images (RGB).
        question: the text asked.
        answer: the reference answer, or None when the data has none.
        group: question type, for the worst group.
    """

    id: str
    image: str
    load: Loader
    question: str
    answer: str | None = None
    group: str = "all"


class Task:
    """Base of all tasks: `examples(split, n, seed)` and how an answer is scored."""

    name: ClassVar[str]
    metric: ClassVar[str] = "accuracy"

    def examples(self, split: Split, n: int | None = None) -> Sequence[Example]:
        """Return the first `n` examples of a split (all when None); the same ones at each call."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """A short hash of the data; two tasks with one fingerprint give the same examples."""
        raise NotImplementedError

    @property
    def answered(self) -> bool:
        """Whether the examples carry reference answers (else quality is agreement with the uncompressed model)."""
        return True

    def sibling(self, split: Split, example: Example) -> Example | None:
        """Return another question about exactly the same images, always the same one; None: there is none."""
        return None

    def score(self, example: Example, answer: str) -> float:
        """Return 1.0 when the answer is right, else 0.0: case, articles and punctuation aside."""
        return float(normalise(answer) == normalise(example.answer or ""))


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    text = re.sub(r"[^\w\s]", " ", text.lower())
    return " ".join(w for w in text.split() if w not in {"a", "an", "the"})
