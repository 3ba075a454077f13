"""Outcomes of an evaluation, example by example, and the numbers made of them.

Standard errors are clustered by image: examples of one image are not independent, so the residuals of an
image are summed before they are squared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotc.policy import Number
from autotc.statistics import clustered_error as clustered
from autotc.statistics import mean

COLUMNS = ("id", "image", "group", "correct", "full", "blind", "agreement", "kl", "next_correct", "answer")
FLOATS = ("correct", "full", "blind", "agreement", "kl", "next_correct")
LEAST_IN_GROUP = 8  # smaller groups are too noisy to name one of them the worst


@dataclass(frozen=True)
class Outcomes:
    """What a policy did on n examples; every column has n entries, NaN where a figure does not exist.

    Args:
        split: the split the examples are from.
        on: the model that was run, as written into numbers.
        metric: unit of the score, "accuracy" or "agreement".
        id, image, group: of the example.
        correct: its score under the policy.
        full, blind: its score without a policy, and without any visual token.
        agreement: share of the uncompressed model's own answer tokens that stay the most likely ones.
        kl: nats, mean KL divergence from the uncompressed model over the answer tokens whose probability the
            image moves; NaN when it moves none.
        next_correct: score of another question of the same image, asked of the cache pruned under this one;
            NaN when the image has no other question.
        answer: the most likely tokens, read as text.
        trace: by stage: site, layer, reducer, and means of tokens asked and kept.
        seconds: wall time.
    """

    split: str
    on: str
    metric: str
    id: np.ndarray
    image: np.ndarray
    group: np.ndarray
    correct: np.ndarray
    full: np.ndarray
    blind: np.ndarray
    agreement: np.ndarray
    kl: np.ndarray
    next_correct: np.ndarray
    answer: np.ndarray
    trace: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.id)

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns as plain lists, None where there is no figure."""
        out: dict[str, list[Any]] = {}
        for name in COLUMNS:
            values = getattr(self, name).tolist()
            out[name] = [None if x != x else x for x in values] if name in FLOATS else values
        return out

    def take(self, index: Any) -> Outcomes:
        """Return the examples at some positions (an index array, mask or slice)."""
        return self._with({name: getattr(self, name)[index] for name in COLUMNS}, self.trace, self.seconds)

    def __add__(self, other: Outcomes) -> Outcomes:
        """Join two increments of one evaluation; traces are averaged by the number of examples."""
        if (self.split, self.on, self.metric) != (other.split, other.on, other.metric):
            raise ValueError(
                f"outcomes of {self.split} on {self.on} and of {other.split} on {other.on} differ"
            )
        joined = {n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in COLUMNS}
        total = max(1, len(self) + len(other))
        trace = [
            {**a, **{k: (a[k] * len(self) + b[k] * len(other)) / total for k in ("asked", "kept")}}
            for a, b in zip(self.trace, other.trace, strict=True)
        ]
        return self._with(joined, trace, self.seconds + other.seconds)

    def _with(self, columns: dict[str, Any], trace: list[dict[str, Any]], seconds: float) -> Outcomes:
        return Outcomes(self.split, self.on, self.metric, **columns, trace=trace, seconds=seconds)


def outcomes_from_columns(
    columns: dict[str, Sequence[Any]],
    *,
    split: str,
    on: str,
    metric: str,
    trace: Sequence[dict[str, Any]] = (),
) -> Outcomes:
    """Read what `Outcomes.columns` wrote."""
    arrays: dict[str, Any] = {
        name: np.array([np.nan if x is None else x for x in columns[name]], dtype=float)
        if name in FLOATS
        else np.array(columns[name], dtype=str)
        for name in COLUMNS
    }
    return Outcomes(split, on, metric, **arrays, trace=list(trace))


def shared(one: Outcomes, other: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Return the places in both of the examples that both have, in the order of `one`."""
    n = len(one)
    if np.array_equal(one.id, other.id[:n]):
        return np.arange(n), np.arange(n)
    at = {name: i for i, name in enumerate(other.id.tolist())}
    mine = [i for i, name in enumerate(one.id.tolist()) if name in at]
    return np.array(mine, int), np.array([at[one.id[i]] for i in mine], int)


def paired(one: Outcomes, other: Outcomes, column: str = "correct") -> tuple[float, float | None, int]:
    """Return mean, clustered standard error and n of `one` minus `other` over the examples both have."""
    mine, theirs = shared(one, other)
    return mean(getattr(one, column)[mine] - getattr(other, column)[theirs], one.image[mine])


def groups(outcomes: Outcomes) -> dict[str, tuple[float, float | None, int]]:
    """Return mean score, standard error and n of every group."""
    return {
        str(name): mean(outcomes.correct[outcomes.group == name], outcomes.image[outcomes.group == name])
        for name in np.unique(outcomes.group)
    }


def worst(outcomes: Outcomes) -> tuple[str, tuple[float, float | None, int]] | None:
    """Return name and figures of the worst group of at least eight examples; None with fewer than two such
    groups.
    """
    large = {name: found for name, found in groups(outcomes).items() if found[2] >= LEAST_IN_GROUP}
    return min(large.items(), key=lambda item: item[1][0]) if len(large) > 1 else None


def worst_group_drop(outcomes: Outcomes) -> tuple[str, float, float | None, int] | None:
    """Return (group, drop, standard error, n) of the group that loses most against the uncompressed model.

    The drop is the uncompressed score less the policy's, paired by example. Groups of fewer than eight examples
    are left out; None where none is left. The largest of several noisy drops lies above the largest true drop on
    average, the more so the smaller the groups: read it with its standard error, which does not know of that
    choice.
    """
    found = []
    for name in np.unique(outcomes.group):
        part = outcomes.group == name
        drop, stderr, n = mean(outcomes.full[part] - outcomes.correct[part], outcomes.image[part])
        if n >= LEAST_IN_GROUP:
            found.append((str(name), drop, stderr, n))
    return max(found, key=lambda f: f[1], default=None)


def grounded(outcomes: Outcomes) -> tuple[float, float | None, int] | None:
    """Return (score - blind) / (full - blind) of the means, its standard error (delta method) and n.

    None where the image makes no clear difference: full - blind below two of its standard errors.
    """
    gain = outcomes.full - outcomes.blind
    there = ~np.isnan(gain + outcomes.correct)
    below, error, n = mean(gain, outcomes.image)
    if n == 0 or below <= 0 or error is None or below < 2 * error:
        return None
    above = (outcomes.correct - outcomes.blind)[there]
    ratio = float(above.mean() / below)
    return ratio, clustered((above - ratio * gain[there]) / below, outcomes.image[there]), n


def numbers(outcomes: Outcomes) -> list[Number]:
    """Return the figures of an evaluation with their standard errors; what does not exist is left out."""
    found: dict[str, tuple[float, float | None, int] | None] = {
        "quality": mean(outcomes.correct, outcomes.image),
        "grounded": grounded(outcomes),
        "agreement": mean(outcomes.agreement, outcomes.image),
        "kl": mean(outcomes.kl, outcomes.image),
        "next_question": mean(outcomes.next_correct, outcomes.image),
    }
    if (low := worst(outcomes)) is not None:
        found["worst_group"] = low[1]
    if (lost := worst_group_drop(outcomes)) is not None:
        found["worst_group_drop"] = lost[1:]
    units = {"grounded": "share of the image's gain", "agreement": "agreement", "kl": "nats"}
    return [
        Number(
            name=name,
            value=figures[0],
            unit=units.get(name, outcomes.metric),
            kind="measured",
            on=outcomes.on,
            split=outcomes.split,
            stderr=figures[1],
            n=figures[2],
        )
        for name, figures in found.items()
        if figures is not None and figures[2] > 0
    ]
