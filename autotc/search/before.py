"""What is said of the data, or refused, before a search runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from autotc._outcomes import LEAST_IN_GROUP
from autotc.errors import SpecError
from autotc.search._claims import LEAST_IMAGES
from autotc.search.spec import SearchSpec
from autotc.task import SPLITS, Example, Split, Task


def without_answers(spec: SearchSpec) -> list[str]:
    """Return what quality then means.

    Raises:
        SpecError: quality and agreement are asked for, which are then one.
    """
    if {"quality", "agreement"} <= set(spec.objectives):
        raise SpecError(
            "--objective: quality and agreement are the same on data without answers, agreement with the uncompressed "
            "model; leave one of them out, or give answers in --data"
        )
    held = [str(c) for c in spec.all_constraints() if not c.on_cost and c.name not in ("agreement", "kl")]
    limits = f" That is what {' and '.join(held)} is held against." if held else ""
    return [
        f"The data has no answers: quality is agreement with the uncompressed model, not correctness.{limits} No claim "
        "will be made; for one, give answers in --data."
    ]


def unmeasured(spec: SearchSpec, task: Task, wanted: Mapping[str, int]) -> list[str]:
    """Return a line where the data is too small for a claim.

    Args:
        wanted: examples by split.

    Raises:
        SpecError: an objective or a constraint is about a figure that the data cannot give.
    """
    notes = []
    # generated scenes have as many images as are asked for: only few of them are worth a look
    if spec.data or wanted["held-out"] < 4 * LEAST_IMAGES:
        held = task.examples("held-out", wanted["held-out"])
        images = len({e.image for e in held})
        if images < LEAST_IMAGES and task.answered:
            notes.append(
                f"No claim will be made: the {len(held)} held-out examples are about {images} images, and "
                f"{LEAST_IMAGES} are needed. Give more data, or more of it with --heldout-examples."
            )
    if spec.data:
        asked = {m.name: f"--objective: {m.name}" for m in spec.all_objectives()}
        asked |= {c.name: f"--constraint: '{c}'" for c in spec.all_constraints()}
        for split in SPLITS[:2]:  # what is searched and confirmed on
            examples = task.examples(split, wanted[split])
            for name, option in asked.items():
                if why := _lacks(task, split, name, examples):
                    raise SpecError(
                        f"{option} cannot be measured: {why} in the {split} examples of {spec.data}"
                    )
    return notes


def _lacks(task: Task, split: Split, figure: str, examples: Sequence[Example]) -> str:
    """Return what examples lack for a figure; empty where they have it."""
    if figure == "next_question" and not any(task.sibling(split, e) for e in examples):
        return "no image has a second question"
    large = [n for n in Counter(e.group for e in examples).values() if n >= LEAST_IN_GROUP]
    if figure == "worst_group" and len(large) < 2:
        return f"fewer than two question groups have {LEAST_IN_GROUP} examples"
    if figure == "worst_group_drop" and not large:
        return f"no question group has {LEAST_IN_GROUP} examples"
    return ""
