"""What the policies of a test-bed answered, example by example, in one small file that a run goes on filling."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from autotc._outcomes import Outcomes
from autotc.errors import SpecError, UnsupportedError
from autotc.policy import Policy
from autotc.task import Example, Split
from autotc.tasks.scenes import Scenes

BLOCK = 128  # examples that are run and written at once
MAX_STAGES = 32
SPLIT: Split = "search"  # the splits that live studies are confirmed on stay unseen
SAVE_S = 30.0
SURVIVABLE = (ArithmeticError, MemoryError, RuntimeError, UnsupportedError, ValueError)
EMPTY, DONE, FAILED = 0, 1, 2


class BedScenes(Scenes):
    """The built-in scenes without the next question, which saves a third of the time."""

    def sibling(self, split: Split, example: Example) -> None:
        """Return nothing: the next question is not asked."""
        return


class Evaluates(Protocol):
    """What runs policies of the evaluated model."""

    def evaluate(self, policy: Policy | None, split: Any, n: int, *, start: int = 0) -> Outcomes: ...


@dataclass
class Measured:
    """Outcomes of P policies on n examples, in blocks of `BLOCK`.

    Args:
        policies: fingerprint of the policies' ids, in order.
        task: fingerprint of the examples.
        on: the model that was run.
        image: (n,) int, which image an example is about.
        full, blind: (n,) bool, right without a policy, and without the image.
        correct: (P, n) bool; False where nothing was run.
        state: (P, n / BLOCK) uint8, `EMPTY`, `DONE` or `FAILED`.
        kept: (P, MAX_STAGES) share of the original tokens really alive after each stage, NaN where there is none.
        seconds: spent on it so far.
    """

    policies: str
    task: str
    on: str
    image: np.ndarray
    full: np.ndarray
    blind: np.ndarray
    correct: np.ndarray
    state: np.ndarray
    kept: np.ndarray
    seconds: float = 0.0

    def write(self, path: Path) -> None:
        """Write a compressed .npz with one bit an answer, replacing the last one at once."""
        part = path.with_suffix(".part")
        packed = {"correct": np.packbits(self.correct, axis=1), "kept": self.kept.astype(np.float32)}
        with part.open("wb") as file:
            np.savez_compressed(file, **{**vars(self), **packed})
        os.replace(part, path)

    def begins(self, policies: Sequence[Policy]) -> bool:
        """Return whether these are the first of some policies, in order."""
        return fingerprint(policies[: len(self.state)]) == self.policies

    def room(self, policies: Sequence[Policy], n: int) -> Measured:
        """Return the same with rows for all policies, of which these are the first, and columns for `n` examples.

        What is new is `EMPTY`; what is known of the examples themselves stays as it is.
        """
        more = len(policies) - len(self.state)
        wider = max(0, n - self.correct.shape[1])
        return replace(
            self,
            policies=fingerprint(policies),
            correct=np.pad(self.correct, ((0, more), (0, wider))),
            state=np.pad(self.state, ((0, more), (0, wider // BLOCK)), constant_values=EMPTY),
            kept=np.pad(self.kept, ((0, more), (0, 0)), constant_values=np.nan),
        )

    @staticmethod
    def read(path: Path) -> Measured:
        """Read what `write` wrote.

        Raises:
            SpecError: the file is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {name: file[name] for name in file.files}
            values["correct"] = np.unpackbits(values["correct"], axis=1).astype(bool)
            return Measured(**{k: v.item() if v.ndim == 0 else v for k, v in values.items()})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SpecError(
                f"{path}: not the outcomes of a test-bed ({error}); delete it to start again"
            ) from error


def fingerprint(policies: Sequence[Policy]) -> str:
    """Return 16 hex digits over the ids of policies."""
    return hashlib.sha256(" ".join(p.id for p in policies).encode()).hexdigest()[:16]


def measure(
    policies: Sequence[Policy],
    evaluator: Evaluates,
    to_evaluated: Callable[[Policy], Policy],
    task: str,
    on: str,
    path: Path,
    examples: int,
    each: Callable[[int, int, float], None] = lambda done, total, left_s: None,
) -> Measured:
    """Run policies, going on with what the file holds; all of them on the first block of examples, then the next.

    Args:
        policies: for the full model.
        evaluator: runs them.
        to_evaluated: writes a policy for the model that is run.
        task: fingerprint of the examples.
        on: name of that model.
        path: the .npz.
        examples: of each policy, a multiple of `BLOCK`.
        each: called after every run with how many blocks are done, how many there are, and the seconds left.

    Raises:
        SpecError: the number of examples is none of whole blocks; the file holds policies that these do not begin
            with, or other examples.
    """
    if examples % BLOCK:
        raise SpecError(f"--examples: {examples} is not a multiple of {BLOCK}")
    found = _open(policies, evaluator, task, on, path, examples)
    blocks = found.state.shape[1]
    todo = [(i, b) for b in range(blocks) for i in range(len(policies)) if found.state[i, b] == EMPTY]
    total = len(policies) * blocks
    begin = saved = time.monotonic()
    before = found.seconds
    try:
        for count, (i, block) in enumerate(todo, 1):
            _run(found, i, block, policies[i], to_evaluated(policies[i]), evaluator)
            now = time.monotonic()
            found.seconds = before + now - begin
            if now - saved > SAVE_S:
                found.write(path)
                saved = now
            each(total - len(todo) + count, total, (now - begin) / count * (len(todo) - count))
    finally:
        found.write(path)
    return found


def _run(found: Measured, i: int, block: int, policy: Policy, there: Policy, evaluator: Evaluates) -> None:
    try:
        outcomes = evaluator.evaluate(there, SPLIT, BLOCK, start=block * BLOCK)
    except SURVIVABLE:
        found.state[i, block] = FAILED  # counted on the page; the search meets it as a policy that cannot run
        return
    found.correct[i, block * BLOCK : (block + 1) * BLOCK] = outcomes.correct > 0.5
    found.state[i, block] = DONE
    done = int((found.state[i] == DONE).sum())
    for j, (stage, trace) in enumerate(zip(policy.stages, outcomes.trace, strict=True)):
        exact = stage.site == "input" or not trace["asked"]
        kept = stage.keep * (1.0 if exact else min(1.0, trace["kept"] / trace["asked"]))
        old = found.kept[i, j]
        found.kept[i, j] = kept if done == 1 else old + (kept - old) / done


def _open(
    policies: Sequence[Policy], evaluator: Evaluates, task: str, on: str, path: Path, examples: int
) -> Measured:
    """Return what the file holds with room for all policies and so many examples, or an empty one."""
    old = Measured.read(path) if path.is_file() else None
    if old is not None and (not old.begins(policies) or (old.task, old.on) != (task, on)):
        raise SpecError(f"{path}: holds other policies, scenes, or another model; delete it to start again")
    if (most := max((len(p.stages) for p in policies), default=0)) > MAX_STAGES:
        raise ValueError(f"a policy has {most} stages; a test-bed stores {MAX_STAGES}")
    if old is not None and old.correct.shape[1] >= examples:
        return old.room(policies, examples)
    whole = evaluator.evaluate(None, SPLIT, BLOCK)
    for start in range(BLOCK, examples, BLOCK):
        whole = whole + evaluator.evaluate(None, SPLIT, BLOCK, start=start)
    if len(whole) != examples:
        raise SpecError(f"--examples: {examples}, but the split has only {len(whole)}")
    _, image = np.unique(whole.image, return_inverse=True)
    first: dict[int, int] = {}
    for k, name in enumerate(image.tolist()):
        first.setdefault(name, k)
    order = {name: rank for rank, name in enumerate(first)}  # images are numbered as they are met
    if old is None:
        old = Measured(
            policies=fingerprint(()),
            task=task,
            on=on,
            image=np.zeros(0, np.int32),
            full=np.zeros(0, bool),
            blind=np.zeros(0, bool),
            correct=np.zeros((0, 0), bool),
            state=np.zeros((0, 0), np.uint8),
            kept=np.zeros((0, MAX_STAGES)),
        )
    return replace(
        old.room(policies, examples),
        image=np.array([order[name] for name in image.tolist()], np.int32),
        full=whole.full > 0.5,
        blind=whole.blind > 0.5,
    )
