"""Studies made without running a model: costs are estimated, outcomes are those of the fake evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autotc._outcomes import Outcomes, numbers
from autotc.cost import estimate
from autotc.policy import ModelRef, Policy, Stage
from autotc.store import Store
from autotc.workload import Workload
from tests.fakes import FULL, FakeEvaluator

LIMIT = 800.0
ON = "proxy:qwen2_5_vl-tiny"
Change = Callable[[Outcomes], Outcomes]


def policy(*stages: Stage) -> Policy:
    model = ModelRef(family=FULL.family, id=FULL.id, decoder_layers=28, vision_blocks=32)
    return Policy(model=model, stages=stages)


def reference(label: str) -> Policy:
    site = "input" if label == "downsample" else "projector"
    return policy() if label == "uncompressed" else policy(Stage(site=site, reducer=label, keep=0.2))


def proposal(number: int, trials: int) -> Policy:
    """Return another policy for each number, all within the limit."""
    keep = 0.05 + 0.15 * (number + 1) / trials
    first = Stage(site="projector", reducer="visionzip" if number % 3 else "divprune", keep=keep)
    return policy(first, Stage(site="decoder", layer=20, reducer="withdraw", keep=0.0))


def make(
    store: Store,
    name: str = "study",
    trials: int = 5,
    heldout: bool = True,
    references: bool = True,
    change: Change = lambda outcomes: outcomes,
    on: str = ON,
    data: str | None = None,
) -> str:
    """Store a finished study and return its name.

    Args:
        change: of every trial's and reference's outcomes, before figures are made of them.
    """
    spec = {
        "model": "qwen2.5-vl",
        "max_tflops": LIMIT,
        "flops_convention": "literature",
        "workload": Workload().as_dict(),
        "constraints": ["worst_group_drop <= 0.5"],
        "data": data,
        "examples": 64,
        "trials": trials,
        "seed": 0,
        "data_fingerprint": "f00d",
    }
    model = {"family": FULL.family, "id": FULL.id, "decoder_layers": 28, "vision_blocks": 32}
    store.create_study(name, "c0ffee", spec, model, on)
    if references:
        for label in ("uncompressed", "random", "downsample", "divprune"):
            finish(store, name, None, label, reference(label), heldout, change, on)
    for number in range(trials):
        finish(store, name, number, None, proposal(number, trials), heldout, change, on)
    store.set_study_state(name, "finished")
    if heldout:
        store.look(name, "held-out", "made up")
    return name


def finish(
    store: Store,
    study: str,
    number: int | None,
    label: str | None,
    wanted: Policy,
    heldout: bool,
    change: Change,
    on: str,
) -> int:
    """Enter one trial or reference with everything that a search stores of it; return its id."""
    role = "trial" if label is None else "reference"
    trial_id = store.add_trial(study, number, wanted, role=role, label=label)
    splits = {"search": 64, "selection": 64, **({"held-out": 96} if heldout else {})}
    found = {s: change(_outcomes(wanted, s, n, on)) for s, n in splits.items()}
    store.finish_trial(
        trial_id,
        numbers=[n for outcomes in found.values() for n in numbers(outcomes)],
        costs=estimate(wanted, FULL, Workload()).as_dict(),
        outcomes=found,
        trace=[
            {"stage": i, "asked": 100 * s.keep, "kept": 100 * s.keep} for i, s in enumerate(wanted.stages)
        ],
        seconds=1.0,
    )
    return trial_id


def _outcomes(wanted: Policy, split: str, n: int, on: str) -> Outcomes:
    return replace(FakeEvaluator().evaluate(wanted if wanted.stages else None, split, n), on=on)
