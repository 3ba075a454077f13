"""Running a policy to see what it keeps: the pictures that the dashboard shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autotc._batches import make_inputs, new_batch
from autotc.apply import Compression, prefill
from autotc.assignment import Assignment
from autotc.errors import ModelError, SpecError
from autotc.pictures import EXAMPLES, Looked, Pictures, Seen, described, drawn, fitted, write
from autotc.policy import Policy
from autotc.registry import nearest
from autotc.task import SPLITS

if TYPE_CHECKING:
    from PIL.Image import Image

    from autotc.evaluate import Evaluator
    from autotc.task import Example, Split, Task

Targets = list[int | None]


def make(
    root: Path, evaluator: Evaluator, policies: Sequence[Policy], split: Split = "held-out", n: int = EXAMPLES
) -> list[Path]:
    """Draw what each policy keeps of the first examples of a split, and write it under `root`.

    Args:
        evaluator: of the model that runs.
        policies: for any model of the family.
        split, n: the examples.

    Returns:
        The folders.
    """
    examples = list(evaluator.task.examples(split, n))[:n]
    full = evaluator.evaluate(None, split, n)
    out = []
    for policy in policies:
        here = policy.for_model(evaluator.anatomy)
        outcomes = evaluator.evaluate(here, split, n)
        looked: list[Looked] = []
        images: dict[str, Image] = {}
        for i, example in enumerate(examples):
            ground, grid, tokens, stages = look(evaluator, here, example)
            shown = fitted(ground, grid)
            images[f"{i}.webp"] = shown
            seen = []
            for j, (smaller, targets) in enumerate(stages):
                name = f"{i}-{j}.webp"
                images[name] = drawn(fitted(smaller, grid), grid, targets)
                kept = sum(t == k for k, t in enumerate(targets))
                dropped = sum(t is None for t in targets)
                seen.append(Seen(kept=kept, merged=len(targets) - kept - dropped, dropped=dropped, file=name))
            looked.append(
                Looked(
                    id=example.id,
                    group=example.group,
                    question=example.question,
                    wanted=example.answer,
                    before=str(full.answer[i]),
                    after=str(outcomes.answer[i]),
                    right_before=float(full.correct[i]),
                    right_after=float(outcomes.correct[i]),
                    tokens=tokens,
                    file=f"{i}.webp",
                    stages=seen,
                )
            )
        found = Pictures(
            policy=policy.id,
            on=evaluator.on,
            split=split,
            stages=[described(stage) for stage in policy.stages],
            examples=looked,
        )
        out.append(write(root, found, images))
    return out


@torch.inference_mode()
def look(
    evaluator: Evaluator, policy: Policy, example: Example
) -> tuple[Image, tuple[int, int], int, list[tuple[Image, Targets]]]:
    """Return an example's first image, its (rows, columns) of tokens, and what each stage leaves of them.

    Args:
        policy: for the evaluator's model.

    Returns:
        The image; its grid as the model sees it, and tokens it would have in full size; for each stage the image as it
        was shown, and for each token where it goes.
    """
    image = _visible(example.load()[0], evaluator.anatomy.image.fixed is not None)
    resize = next((s for s in policy.stages if s.site == "input"), None)
    batch = new_batch("pictures", [example], evaluator.device)
    inputs = make_inputs(batch, evaluator.processor, evaluator.anatomy, resize, evaluator.device)
    if not policy.stages:
        rows, columns = evaluator.anatomy.image.grid(*image.size)
        return image, (rows, columns), rows * columns, []
    with Compression(evaluator.model, policy, evaluator.processor, evaluator.anatomy) as compression:
        compression.ids = batch.numbers
        state = prefill(compression, inputs.tensors, original=inputs.original)
        images = state.run.prompt.images
        _, rows, columns = images.grids[0]
        grid = (rows, columns)
        n = rows * columns
        product: Assignment | None = None
        size = torch.ones(images.place.shape)
        stages: list[tuple[Image, Targets]] = []
        shown = image
        for i, stage in enumerate(policy.stages):
            if stage.site == "input":
                unit = evaluator.anatomy.image.patch * evaluator.anatomy.image.merge
                shown = image.resize((columns * unit, rows * unit)).resize(image.size)
            decision = state.decisions.get(i)
            if decision is not None:
                product = (
                    decision
                    if product is None
                    else product.compose(decision, size.to(decision.anchors.device))
                )
            stages.append((shown, list(range(n)) if product is None else targets(product, n)))
    return image, grid, images.original[0], stages


def targets(assignment: Assignment, n: int) -> Targets:
    """Return where each of the first row's `n` tokens goes: the place of the heaviest token it is part of, or None.

    A token that is the place of an output token it is part of stays where it is.
    """
    dense: Tensor = assignment.dense()[0, :, :n]
    anchors = assignment.anchors[0]
    real = assignment.valid[0]
    dense, anchors = dense[real], anchors[real]
    if not len(anchors):
        return [None] * n
    heaviest = dense.max(0)
    place_of: Any = anchors[heaviest.indices].tolist()
    part = (heaviest.values > 0).tolist()
    own = {int(a) for k, a in enumerate(anchors) if dense[k, int(a)] > 0}
    return [i if i in own else place_of[i] if part[i] else None for i in range(n)]


def _visible(image: Any, square: bool) -> Any:
    # towers of a fixed size look at the middle square
    if not square:
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def of_policy(model: str, policy: Policy | None, task: Task, split: str, n: int, storage: str | None) -> Path:
    """Draw what one policy keeps on a folder's weights, or on the proxy of an alias; return the folder.

    Raises:
        SpecError: no policy was given; an unknown model or split; neither weights nor a proxy.
    """
    from autotc.adapter import resolve_model
    from autotc.evaluate import Evaluator
    from autotc.pictures import folder
    from autotc.proxies import proxy_folder

    if policy is None:
        raise SpecError("--pictures: give the --policy to draw; without one every token is kept")
    if split not in SPLITS:
        raise SpecError(f"--split: {split!r} is not known. {nearest(split, SPLITS)}")
    source = resolve_model(model)
    weights = source.folder if source.weights else proxy_folder(source.family)
    if weights is None:
        raise ModelError(
            f"--model: no weights of {source.id} on this machine; give the folder that holds them"
        )
    on = source.id if source.weights else f"proxy:{weights.name}"
    return make(folder(storage), Evaluator(weights, task, on=on), [policy], split, n)[0]


@dataclass(frozen=True)
class Drawn:
    """Pictures of a study.

    Args:
        folder: where the pictures of this database lie.
        made: policies that were drawn now.
        there: that had been drawn before.
        left: that have none yet, for want of time or of the weights.
    """

    folder: Path
    made: int
    there: int
    left: int


def of_study(
    storage: str | None,
    study: str,
    n: int = EXAMPLES,
    model: str | None = None,
    trial: int | None = None,
    within_s: float | None = None,
) -> Drawn:
    """Draw the front of a study, the best first, and then its references; what was drawn before is left alone.

    Args:
        n: held-out examples.
        model: folder with the weights that run; default: the study's proxy. Weights are never loaded unasked.
        trial: this one alone, drawn again where it was drawn before.
        within_s: seconds after which no other policy is begun.

    Raises:
        SpecError: no such study or trial.
    """
    begin = time.monotonic()
    from autotc.adapter import resolve_model
    from autotc.evaluate import Evaluator
    from autotc.pictures import folder, read
    from autotc.proxies import proxy_folder
    from autotc.running import make_task
    from autotc.store import Store
    from autotc.tables.fronts import FrontView

    store = Store(storage)
    view, row, root = FrontView.read(store, study, None, None), store.study(study), folder(storage)
    assert row is not None  # FrontView has refused an unknown one
    if trial is None:
        line = sorted(view.front, key=lambda m: -m.value("quality", view.split))
        beside = [m for m in view.references if m.number("quality", "held-out")]
        policies = {m.policy.id: m.policy for m in (*line, *beside)}
        wanted = [policy for id_, policy in policies.items() if read(root, id_) is None]
        there = len(policies) - len(wanted)
    else:
        wanted, there = [m.policy for m in view.everything if m.trial == trial], 0
        if not wanted:
            raise SpecError(f"{study}: no finished trial {trial}. See: autotc front {study}")
    weights, on = proxy_folder(str(row.model.get("family"))), row.evaluated_on
    if model is not None:
        source = resolve_model(model)
        weights, on = source.folder if source.weights else None, source.id
        if weights is None:
            raise ModelError(f"--model: no weights of {source.id} here; give the folder that holds them")
    elif weights is None or on != f"proxy:{weights.name}":
        weights = None
    if not wanted or weights is None:
        return Drawn(root, 0, there, len(wanted))
    task = make_task(row.spec.get("data"), bool(row.spec.get("skip_bad")))
    evaluator, made = Evaluator(weights, task, threads=1, on=on), 0
    for policy in wanted:
        if within_s is not None and time.monotonic() - begin > within_s:
            break
        make(root, evaluator, [policy], n=n)
        made += 1
    return Drawn(root, made, there, len(wanted) - made)
