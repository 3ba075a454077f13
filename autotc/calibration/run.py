"""Running the published methods on a proxy, on scenes that nothing else uses; outcomes are kept example by example."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from autotc._process import EvaluatorProcess
from autotc.calibration.frozen import frozen
from autotc.calibration.methods import SIZE, Planned
from autotc.errors import SpecError
from autotc.task import Example, Split
from autotc.tasks.scenes import Scenes

EXAMPLES = 256
SPLIT: Split = "held-out"


class Fresh(Scenes):
    """The built-in scenes from seeds that no training, no search and no other study draws."""

    first_seed: ClassVar[dict[str, int]] = {SPLIT: 4 * 10**9}

    def sibling(self, split: Split, example: Example) -> None:
        """No second question is asked of a cache: only what the tables print is compared."""
        return None


@dataclass(frozen=True)
class Measured:
    """What the methods did on one proxy.

    Args:
        proxy: its name.
        frozen: hashes of what must not change, see `frozen`.
        image: (n,) the image of each example.
        full, blind: (n,) 1 where the uncompressed model is right, and the one without visual tokens.
        policy, method, budget, seed: (p,) of each run; the policy as its id.
        correct: (p, n) uint8.
    """

    proxy: str
    frozen: dict[str, str]
    image: np.ndarray
    full: np.ndarray
    blind: np.ndarray
    policy: np.ndarray
    method: np.ndarray
    budget: np.ndarray
    seed: np.ndarray
    correct: np.ndarray

    def __len__(self) -> int:
        return len(self.policy)

    def write(self, path: Path) -> None:
        """Write everything into one .npz."""
        part = path.with_suffix(".part.npz")
        arrays = {name: getattr(self, name) for name in ARRAYS}
        np.savez_compressed(part, proxy=self.proxy, frozen=json.dumps(self.frozen), **arrays)
        part.replace(path)

    @staticmethod
    def read(path: Path) -> Measured:
        """Read what `write` wrote.

        Raises:
            SpecError: the file cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ARRAYS}
                return Measured(str(file["proxy"]), json.loads(str(file["frozen"])), **arrays)
        except (OSError, ValueError, KeyError) as error:
            raise SpecError(
                f"{path}: not the outcomes of a calibration ({error}); delete it and run: autotc bench calibrate"
            ) from error


BY_RUN = ("policy", "method", "budget", "seed", "correct")
ARRAYS = ("image", "full", "blind", *BY_RUN)


def measure(
    folder: Path,
    planned: list[Planned],
    path: Path,
    examples: int,
    processes: int,
    done: Callable[[str], None] = lambda label: None,
) -> Measured:
    """Run what the file does not hold yet, and write after each policy, so that an interrupted run goes on.

    Args:
        folder: the proxy.
        planned: from `methods.plan`; policies are for the full model.
        path: the .npz.
        examples: of `Fresh`.
        processes: that share the examples, one thread each.
        done: called with a label after each policy.
    """
    from autotc.adapter import resolve_model

    now = frozen(folder.name)
    found = Measured.read(path) if path.is_file() else None
    if found is not None and (found.frozen != now or len(found.full) != examples):
        found = None
    evaluated = resolve_model(str(folder)).anatomy
    with EvaluatorProcess(
        folder, Fresh(SIZE), on=f"proxy:{folder.name}", processes=processes, threads=1
    ) as evaluator:
        if found is None:
            whole = evaluator.evaluate(None, SPLIT, examples)
            found = Measured(
                proxy=folder.name,
                frozen=now,
                image=whole.image.astype(str),
                full=_binary(whole.full),
                blind=_binary(whole.blind),
                policy=np.array([], str),
                method=np.array([], str),
                budget=np.array([], float),
                seed=np.array([], int),
                correct=np.zeros((0, examples), np.uint8),
            )
            found.write(path)
        for item in planned:
            label = f"{item.method} at {item.budget:.0%}" + (f", draw {item.seed}" if item.seed else "")
            if not np.any((found.policy == item.policy.id) & (found.method == item.method)):
                outcomes = evaluator.evaluate(item.policy.for_model(evaluated), SPLIT, examples)
                found = _with(found, item, _binary(outcomes.correct))
                found.write(path)
            done(label)
    wanted = {(item.policy.id, item.method) for item in planned}
    keep = [i for i, key in enumerate(zip(found.policy, found.method, strict=True)) if key in wanted]
    found = replace(found, **{name: getattr(found, name)[keep] for name in BY_RUN})
    found.write(path)
    return found


def _with(found: Measured, item: Planned, correct: np.ndarray) -> Measured:
    return replace(
        found,
        policy=np.append(found.policy, item.policy.id),
        method=np.append(found.method, item.method),
        budget=np.append(found.budget, item.budget),
        seed=np.append(found.seed, item.seed),
        correct=np.vstack((found.correct, correct)),
    )


def _binary(values: np.ndarray) -> np.ndarray:
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("scores of the built-in scenes are 0 or 1")
    return values.astype(np.uint8)
