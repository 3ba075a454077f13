"""A small test-bed whose truth is known: answers are right with the chance that the fakes' closed form gives."""

from __future__ import annotations

from functools import cache

import numpy as np

from autotc._outcomes import Outcomes
from autotc.policy import Policy
from autotc.search._references import references
from autotc.search.space import Space
from autotc.testbed.bed import Bed
from autotc.testbed.lattice import PRESET, Point, sample_lattice
from autotc.testbed.measure import DONE, MAX_STAGES, Measured
from autotc.workload import PROFILES
from tests.fakes import FULL, PROXY, accept, true_quality
from tests.search.points import REDUCERS

VQA = PROFILES["vqa"]
EXAMPLES = 512


@cache
def space() -> Space:
    """The space of the fakes: at most 800 TFLOP literature, about 192 tokens."""
    return Space(FULL, PROXY, VQA, 800, "literature", (*REDUCERS, "fitprune", "vflowopt"), accept)


@cache
def points() -> tuple[Point, ...]:
    """The recipes that a study starts from, and 150 drawn policies."""
    recipes = [Point(PRESET, label, policy) for label, policy in references(space()) if policy.stages]
    return tuple(sample_lattice(space(), 150, 3, recipes))


def chances(policy: Policy | None, n: int = EXAMPLES) -> np.ndarray:
    """Chance of each example to be answered rightly; hard and easy ones differ."""
    hard = 0.6 * (((np.arange(n) // 2) * 0.6180339887) % 1.0 - 0.5)
    return np.clip(true_quality(policy) - 0.25 + hard, 0.02, 0.98)


def answered(policy: Policy | None, n: int = EXAMPLES) -> np.ndarray:
    """Answers (n,) bool, the same ones for the same policy."""
    seed = 0 if policy is None else int(policy.id[:12], 16)
    return np.random.default_rng(seed).random(n) < chances(policy, n)


def measured(n: int = EXAMPLES) -> Measured:
    """Return outcomes of all the points."""
    there = points()
    kept = np.full((len(there), MAX_STAGES), np.nan)
    for row, point in zip(kept, there, strict=True):
        row[: len(point.policy.stages)] = [s.keep for s in point.policy.stages]
    return Measured(
        "fake",
        "fake",
        "fake",
        np.arange(n) // 2,
        answered(None, n),
        np.arange(n) % 4 == 0,
        np.array([answered(p.policy, n) for p in there]),
        np.full((len(there), n // 128), DONE, np.uint8),
        kept,
    )


@cache
def bed() -> Bed:
    """The whole test-bed, fitted once."""
    return Bed(space(), points(), measured())


class Evaluator:
    """Answers policies of the evaluated model as the test-bed does."""

    def __init__(self, size: int = EXAMPLES) -> None:
        self.size, self.calls = size, 0

    def evaluate(self, policy: Policy | None, split: str, n: int, *, start: int = 0) -> Outcomes:
        """Return outcomes of examples start..start+n-1."""
        self.calls += 1
        index = np.arange(start, min(start + n, self.size))
        full = None if policy is None else policy.for_model(FULL)
        missing = np.full(len(index), np.nan)
        return Outcomes(
            split=split,
            on="fake",
            metric="accuracy",
            id=index.astype(str),
            image=np.array([f"image-{i // 2}" for i in index]),
            group=np.full(len(index), ""),
            correct=answered(full, self.size)[index].astype(float),
            full=answered(None, self.size)[index].astype(float),
            blind=(index % 4 == 0).astype(float),
            agreement=missing,
            kl=missing,
            next_correct=missing,
            answer=np.full(len(index), ""),
            trace=[{"asked": 100.0, "kept": 50.0} for _ in (policy.stages if policy else ())],
        )
