"""Answers written freely: greedy decoding under a policy, token by token, as `generate` does it.

Scores elsewhere are teacher-forced: each token of the right answer is asked for after the right ones before it.
Here the model goes on from its own words, which is what a user sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotc.policy import Number
from autotc.statistics import Interval, interval

if TYPE_CHECKING:
    from autotc.processing import Processor
    from autotc.task import Example, Task

COLUMNS = ("id", "image", "answer", "own", "correct", "same", "forced")
FLOATS = ("correct", "same", "forced")


@dataclass(frozen=True)
class Written:
    """What a policy writes on n examples; every column has n entries.

    Args:
        split: the split the examples are from.
        on: the model that was run, as written into numbers.
        answered: whether the data has answers.
        id, image: of the example.
        answer, own: the text written under the policy, and by the uncompressed model.
        correct: score of the text, as the task scores it; NaN without an answer in the data.
        same: 1 where the tokens are those that the uncompressed model writes, else 0.
        forced: teacher-forced agreement: share of the uncompressed model's own answer tokens that stay the most
            likely ones.
    """

    split: str
    on: str
    answered: bool
    id: np.ndarray
    image: np.ndarray
    answer: np.ndarray
    own: np.ndarray
    correct: np.ndarray
    same: np.ndarray
    forced: np.ndarray

    def __len__(self) -> int:
        return len(self.id)

    def __add__(self, other: Written) -> Written:
        joined: dict[str, Any] = {n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in COLUMNS}
        return Written(self.split, self.on, self.answered, **joined)

    def figure(self, column: str) -> Interval | None:
        """Return the mean of `correct`, `same` or `forced` with its interval; None where there is none."""
        found = interval(getattr(self, column), self.image)
        return found if found.n else None

    def numbers(self) -> list[Number]:
        """Return `free_running`: the score of the texts, or where the data has no answers the share that is exactly
        what the uncompressed model writes.
        """
        found = self.figure("correct" if self.answered else "same")
        if found is None:
            return []
        unit = "accuracy" if self.answered else "exact match"
        return [
            Number(
                name="free_running",
                value=found.value,
                unit=unit,
                kind="measured",
                on=self.on,
                split=self.split,
                stderr=found.stderr,
                n=found.n,
            )
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the three figures as plain JSON data."""
        found = {name: self.figure(name) for name in FLOATS}
        return {name: None if figure is None else asdict(figure) for name, figure in found.items()}


@dataclass(frozen=True)
class Part:
    """What was written in one batch: places in the request, examples, the tokens under the policy and without one,
    and the teacher-forced agreement of each.
    """

    places: Sequence[int]
    examples: Sequence[Example]
    tokens: Sequence[Sequence[int]]
    own: Sequence[Sequence[int]]
    forced: Sequence[float]


def collect(
    split: str, on: str, task: Task, processor: Processor, stop: Sequence[int], parts: Sequence[Part]
) -> Written:
    """Read the tokens of several batches as texts, and score them; in the order of the request.

    Args:
        split, on: as in `Written`.
        task: scores the texts.
        processor: reads tokens.
        stop: tokens that end an answer.
        parts: one a batch.
    """
    rows: list[tuple[int, tuple[Any, ...]]] = []
    for part in parts:
        mine, theirs = (processor.batch_decode(t, skip_special_tokens=True) for t in (part.tokens, part.own))
        for i, (place, example) in enumerate(zip(part.places, part.examples, strict=True)):
            right = float("nan") if example.answer is None else task.score(example, mine[i])
            same = float(same_tokens(part.tokens[i], part.own[i], stop))
            rows.append((place, (example.id, example.image, mine[i], theirs[i], right, same, part.forced[i])))
    rows.sort(key=lambda row: row[0])
    columns: dict[str, Any] = {
        name: np.array([row[k] for _, row in rows], dtype=float if name in FLOATS else object)
        for k, name in enumerate(COLUMNS)
    }
    return Written(split, on, task.answered, **columns)


def same_tokens(mine: Sequence[int], own: Sequence[int], stop: Sequence[int]) -> bool:
    """Whether two greedy answers are the same; an answer that was cut off before a stop token is compared as far
    as it goes.
    """
    if own and own[-1] in stop:
        return list(mine) == list(own)
    return list(mine[: len(own)]) == list(own)
