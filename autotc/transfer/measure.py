"""Outcomes of the sampled policies on one model, example by example, in one small file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotc.errors import SpecError
from autotc.evaluate import Evaluator
from autotc.policy import Policy
from autotc.task import Example, Split
from autotc.tasks.scenes import Scenes

BLOCK = 128  # examples that are run and written at once
MISSING = 255
SPLIT: Split = "search"  # of a task that no search uses


class SmallScenes(Scenes):
    """Scenes of 112 x 112 pixels with two to four objects: 64 visual tokens, as the small models know them."""

    def __init__(self) -> None:
        super().__init__(size=112, objects=(2, 4))

    def sibling(self, split: Split, example: Example) -> None:
        """Return nothing: the next question is not asked, which saves a third of the time."""
        return


@dataclass
class Measured:
    """What policies did on the examples of one model.

    Args:
        model: its name, such as "qwen2_5_vl-small-1".
        family: its family.
        task: fingerprint of the examples.
        policies: (P,) ids.
        image: (n,) which image an example is about.
        group: (n,) its question type.
        full, blind: (n,) right without a policy, and without the image.
        correct: (P, n) uint8, 1 right, 0 wrong, `MISSING` not run.
        kl: (P,) mean KL divergence from the uncompressed model, nats, over the examples run.
    """

    model: str
    family: str
    task: str
    policies: np.ndarray
    image: np.ndarray
    group: np.ndarray
    full: np.ndarray
    blind: np.ndarray
    correct: np.ndarray
    kl: np.ndarray

    @property
    def examples(self) -> int:
        """How many examples every policy was run on."""
        there = (self.correct != MISSING).sum(1)
        return int(there.min()) if len(there) else 0

    def write(self, path: Path) -> None:
        """Write a compressed .npz, replacing the last one at once."""
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez_compressed(file, **vars(self))
        os.replace(part, path)

    @staticmethod
    def read(path: Path) -> Measured:
        """Read what `write` wrote.

        Raises:
            SpecError: the file is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {name: file[name] for name in file.files}
            return Measured(**{k: v.item() if v.ndim == 0 else v for k, v in values.items()})
        except (OSError, ValueError, TypeError) as error:
            raise SpecError(
                f"{path}: not the outcomes of policies ({error}); delete it to start again"
            ) from error


def measure(
    model: str,
    folder: Path,
    policies: Sequence[Policy],
    path: Path,
    examples: int,
    done: Callable[[int, int], None] = lambda count, total: None,
) -> Measured:
    """Run policies on a model, going on with what the file holds; all of them on one block of examples first.

    Args:
        model: its name.
        folder: its weights.
        policies: for a full model of its family.
        path: the .npz.
        examples: of each policy, a multiple of `BLOCK`.
        done: called with how many runs of a block are done and how many there are.

    Raises:
        SpecError: the file holds other policies or examples; or the number of examples is none of whole blocks.
    """
    if examples % BLOCK:
        raise SpecError(f"--examples: {examples} is not a multiple of {BLOCK}")
    task = SmallScenes()
    evaluator = Evaluator(folder, task, on=model, threads=1, batch=BLOCK)
    here = [policy.for_model(evaluator.anatomy) for policy in policies]
    ids = np.array([policy.id for policy in here])
    found = Measured.read(path) if path.is_file() else None
    if found is not None and (found.task != task.fingerprint or not np.array_equal(found.policies, ids)):
        raise SpecError(f"{path}: holds other policies or scenes; delete it to start again")
    if found is None or found.correct.shape[1] < examples:
        found = _room(found, evaluator, model, task.fingerprint, ids, examples)
    total = len(here) * (found.correct.shape[1] // BLOCK)
    for start in range(0, found.correct.shape[1], BLOCK):
        columns = slice(start, start + BLOCK)
        for i, policy in enumerate(here):
            if (found.correct[i, columns] != MISSING).all():
                continue
            outcomes = evaluator.evaluate(policy, SPLIT, BLOCK, start=start)
            found.correct[i, columns] = outcomes.correct.astype(np.uint8)
            before = start // BLOCK
            found.kl[i] = (found.kl[i] * before + float(np.nanmean(outcomes.kl))) / (before + 1)
            if i % 5 == 4 or i == len(here) - 1:
                found.write(path)
                done(start // BLOCK * len(here) + i + 1, total)
    return found


def _room(
    old: Measured | None, evaluator: Evaluator, model: str, task: str, ids: np.ndarray, examples: int
) -> Measured:
    """Return space for the outcomes of so many examples, those of `old` in it."""
    whole = [evaluator.evaluate(None, SPLIT, BLOCK, start=start) for start in range(0, examples, BLOCK)]
    joined = whole[0]
    for part in whole[1:]:
        joined = joined + part
    correct = np.full((len(ids), examples), MISSING, np.uint8)
    kl = np.zeros(len(ids))
    if old is not None:
        correct[:, : old.correct.shape[1]] = old.correct
        kl = old.kl
    return Measured(
        model,
        evaluator.anatomy.family,
        task,
        ids,
        joined.image.astype(str),
        joined.group.astype(str),
        joined.full.astype(np.uint8),
        joined.blind.astype(np.uint8),
        correct,
        kl,
    )
