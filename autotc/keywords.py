"""Which words of a question say what to look for: those left without stock sentences and common words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_STOCK = re.compile(
    r"answer the question using a single word or phrase\.?"
    r"|answer with the option'?s letter from the given choices directly\.?",
    re.IGNORECASE,
)
_WORDS = """
a an the be is are was were am been being have has had do does did done it they he she we you i
what where when why how who which and or but so if then question answer
to for with by from at into onto upon
"""
_COMMON = frozenset(_WORDS.split())


def _spans(question: str) -> list[tuple[int, int]]:
    """Return (start, end) of the words that are left."""
    blank = _STOCK.sub(lambda found: " " * len(found[0]), question)
    return [m.span() for m in re.finditer(r"\w+", blank) if m[0].lower() not in _COMMON]


def keywords(question: str) -> str:
    """Return the words of a question that are left, in order; the whole question where none is."""
    return " ".join(question[start:end] for start, end in _spans(question)) or question


def keyword_tokens(ids: Sequence[int], question: str, decode: Callable[[Sequence[int]], str]) -> list[bool]:
    """Return which tokens of a prompt hold a part of a question's keywords.

    Args:
        ids: tokens behind the image, with what the template adds.
        question: what was asked, as it stands in the decoded tokens.
        decode: tokens to text.

    Returns:
        One bool a token; all of the question where it has no keywords, all tokens where it isn't found.
    """
    ends = [len(decode(ids[: i + 1])) for i in range(len(ids))]
    start = decode(ids).rfind(question) if question else -1
    if start < 0:
        return [True] * len(ids)
    wanted = _spans(question) or [(0, len(question))]
    places = [(start + a, start + b) for a, b in wanted]
    begins = [0, *ends[:-1]]
    return [any(a < y and x < b for a, b in places) for x, y in zip(begins, ends, strict=True)]


def keyword_marks(behind: Sequence[Sequence[int]], processor: Any) -> Tensor:
    """Return (I, T) float32, 1 where a token behind an image holds a part of a keyword, padded with 0.

    Args:
        behind: the text tokens behind each image.
        processor: it knows the questions in them, and decodes.
    """
    marks = [
        torch.tensor(keyword_tokens(ids, question, processor.decode), dtype=torch.float32)
        for ids, question in zip(behind, processor.questions(behind), strict=True)
    ]
    return torch.nn.utils.rnn.pad_sequence(marks, batch_first=True)
