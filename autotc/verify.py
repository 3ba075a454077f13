"""Measuring one policy on a model and data the user names, and marking it verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from autotc._freerun import Written
from autotc._outcomes import paired
from autotc._process import EvaluatorProcess
from autotc.adapter import resolve_model
from autotc.apply import check
from autotc.breakdown import Breakdown, breakdown
from autotc.errors import ModelError, SpecError
from autotc.export import write_text
from autotc.policy import ModelRef, Number, Policy, load_policy
from autotc.proxies import proxy_folder
from autotc.registry import nearest
from autotc.task import SPLITS, Task
from autotc.weights import placement

if TYPE_CHECKING:
    from autotc.anatomy import Anatomy
    from autotc.task import Split

LEVEL = 0.95
FREE_RUNNING = 64  # examples whose answers are also written freely: each token is a pass of its own


@dataclass(frozen=True)
class Measurement:
    """A policy against the uncompressed model on the same examples.

    Args:
        policy: what was measured, written for the model that ran.
        numbers: its figures.
        full: the uncompressed model's figures.
        difference: quality of the policy less that of the uncompressed model, paired by example.
        stderr: its standard error, clustered by image; None with one image only.
        metric: "accuracy", or "agreement" where the data has no answers.
        trace: tokens asked and kept by stage.
        hidden: what the average hides.
        images: that the examples are about.
        written: what the policy writes freely on some of the examples, None where that was not asked for.
        skipped: lines left out for unreadable images.
    """

    policy: Policy
    numbers: tuple[Number, ...]
    full: tuple[Number, ...]
    difference: float
    stderr: float | None
    metric: str
    trace: list[dict[str, Any]]
    hidden: Breakdown
    images: int
    written: Written | None = None
    skipped: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "policy": self.policy.id,
            "describe": self.policy.describe(),
            "metrics": [n.model_dump(mode="json") for n in self.numbers],
            "uncompressed": [n.model_dump(mode="json") for n in self.full],
            "difference": {"value": self.difference, "stderr": self.stderr},
            "metric": self.metric,
            "trace": self.trace,
            "breakdown": self.hidden.as_dict(),
            "free_running": None if self.written is None else self.written.as_dict(),
            "skipped": self.skipped,
        }

    @property
    def low(self) -> float | None:
        """Lower end of the one-sided 95 % interval of the difference.

        It is never nearer to the difference than what so many images without any loss could rule out: where hardly
        an answer changes, a standard error says too little.
        """
        if self.stderr is None:
            return None
        student = float(stats.t.ppf(LEVEL, self.images - 1)) * self.stderr
        unseen = 1 - (1 - LEVEL) ** (1 / self.images)
        return self.difference - max(student, unseen)


@dataclass(frozen=True)
class Verdict:
    """Whether a policy loses no more than was accepted."""

    measured: Measurement
    max_drop: float
    path: Path

    @property
    def passed(self) -> bool:
        """True when the loss is at most `max_drop` with 95 % confidence."""
        return self.measured.low is not None and self.measured.low >= -self.max_drop

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            **self.measured.as_dict(),
            "max_drop": self.max_drop,
            "passed": self.passed,
            "file": str(self.path),
        }


def measure(
    model: str,
    policy: Policy | None,
    task: Task,
    split: str,
    examples: int,
    *,
    free_running: int = 0,
    allow_proxy: bool = True,
    device: str = "auto",
) -> Measurement:
    """Run a policy on a model and examples.

    Args:
        model: a folder with weights, or an alias, for which the family's proxy runs where that is allowed; the
            policy's depths are then translated.
        policy: None measures the uncompressed model.
        free_running: examples, from the first on, whose answers the model also writes itself.
        device: where the model runs, see `weights.placement`.

    Raises:
        SpecError: unknown model or split, no weights, a policy for another family, unusable data.
    """
    if split not in SPLITS:
        raise SpecError(f"--split: {split!r} is not known. {nearest(split, SPLITS)}")
    named: Split = split
    source = resolve_model(model)
    folder, on = source.folder, source.id
    if not source.weights:
        folder = proxy_folder(source.family) if allow_proxy else None
        if folder is None:
            raise ModelError(
                f"--model: no weights of {source.id} on this machine; give the folder that holds them"
            )
        on = f"proxy:{folder.name}"
    anatomy = resolve_model(str(folder)).anatomy
    here = (policy or Policy(model=_reference(anatomy))).for_model(anatomy)
    check(here, anatomy)
    assert folder is not None  # weights are at hand, or the proxy is
    with EvaluatorProcess(folder, task, on=on, **placement(folder, anatomy, device)) as evaluator:
        outcomes = evaluator.evaluate(here, named, examples)
        full = evaluator.evaluate(None, named, examples)
        several = min(free_running, examples)
        written = evaluator.free_running(here, named, several) if several else None
        own = evaluator.free_running(None, named, several) if several else None
    difference, stderr, _ = paired(outcomes, full)
    return Measurement(
        policy=here,
        numbers=(*evaluator.numbers(outcomes), *(written.numbers() if written else ())),
        full=(*evaluator.numbers(full), *(own.numbers() if own else ())),
        difference=difference,
        stderr=stderr,
        metric=outcomes.metric,
        trace=outcomes.trace,
        hidden=breakdown(outcomes, full),
        images=len(np.unique(outcomes.image)),
        written=written,
        skipped=len(getattr(task, "skipped", ())),
    )


def verify(
    path: Path,
    model: str,
    task: Task,
    examples: int,
    max_drop: float,
    free_running: int = FREE_RUNNING,
    device: str = "auto",
) -> Verdict:
    """Measure a policy on the real weights and the user's data; write `status: verified` and the figures into the
    document when it passes.

    The held-out split is used, which no search on the same file has chosen on.

    Raises:
        SpecError: see `measure`; also when the document is for another depth than the model.
    """
    policy = load_policy(path)
    check(policy, resolve_model(model).anatomy)
    measured = measure(
        model,
        policy,
        task,
        "held-out",
        examples,
        free_running=free_running,
        allow_proxy=False,
        device=device,
    )
    verdict = Verdict(measured, max_drop, path)
    if verdict.passed:
        kept = [n for n in policy.expected if n.kind == "estimated" and n.split is None]  # the costs
        done = policy.model_copy(
            update={"status": "verified", "expected": (*verdict.measured.numbers, *kept)}
        )
        write_text(path, done.json_text())
    return verdict


def _reference(anatomy: Anatomy) -> ModelRef:
    return ModelRef(
        family=anatomy.family,
        id=anatomy.id,
        decoder_layers=anatomy.decoder.layers,
        vision_blocks=anatomy.vision.blocks,
    )
