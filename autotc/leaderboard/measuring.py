"""Running what a leaderboard lacks, and one row of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from autotc import _outcomes
from autotc._outcomes import Outcomes
from autotc.adapter import OF_TEXT_ENCODER, adapters
from autotc.anatomy import Anatomy
from autotc.cost import estimate
from autotc.leaderboard.board import Board, Entry, Row
from autotc.policy import Policy
from autotc.reducer import SIGNALS, fidelity_on, reducers
from autotc.workload import Workload


class Measures(Protocol):
    """What runs a policy; `autotc.evaluate.Evaluator` and `EvaluatorProcess` do."""

    def evaluate(self, policy: Policy | None, split: Any, n: int, *, start: int = 0) -> Outcomes: ...


def measure(
    board: Board,
    entries: Sequence[Entry],
    evaluator: Measures,
    full: Anatomy,
    evaluated: Anatomy,
    workload: Workload,
    done: Callable[[Entry], None] = lambda entry: None,
) -> None:
    """Measure what the board does not hold yet, row by row.

    Args:
        board: rows are added; those that are there with the same policy are kept.
        entries: from `plan`.
        evaluator: runs policies of the evaluated model.
        full, evaluated, workload: as in `plan`.
        done: called after each entry.
    """
    there = {(row.label, row.share): row for row in board.rows}
    random: dict[float, Outcomes] = {}
    for entry in entries:
        document = None if entry.policy is None else json.loads(entry.policy.json_text())
        old = there.get((entry.label, entry.share))
        if old is not None and old.policy == document and entry.reducer != "random":
            done(entry)
            continue
        policy = None if entry.policy is None else entry.policy.for_model(evaluated)
        outcomes = evaluator.evaluate(policy, "held-out", board.examples)
        if entry.reducer == "random":
            random[entry.share] = outcomes
        row = _row(entry, document, outcomes, random.get(entry.share), full, workload)
        board.rows = [r for r in board.rows if (r.label, r.share) != (entry.label, entry.share)] + [row]
        done(entry)


def _row(
    entry: Entry,
    document: dict[str, Any] | None,
    outcomes: Outcomes,
    random: Outcomes | None,
    full: Anatomy,
    workload: Workload,
) -> Row:
    cls = reducers.get(entry.reducer) if entry.reducer else None
    absent = {*adapters.get(full.family).signals_absent, *OF_TEXT_ENCODER}
    stages = entry.policy.stages if entry.policy else ()
    kept = tuple(
        stage.keep * t["kept"] / t["asked"] if t["asked"] else 0.0
        for stage, t in zip(stages, outcomes.trace, strict=True)
    )
    cost = estimate(entry.policy, full, workload, kept=kept if stages else None)
    low = _outcomes.worst(outcomes)
    return Row(
        label=entry.label,
        reducer=entry.reducer,
        share=entry.share,
        fidelity="" if cls is None else fidelity_on(cls, set(SIGNALS) - absent),
        query_aware=bool(cls and cls.query_aware),
        tflops_exact=cost.tflops_exact,
        tflops_literature=cost.tflops_literature,
        quality=_outcomes.mean(outcomes.correct, outcomes.image),
        worst_group=None if low is None else (low[0], *low[1]),
        versus_random=None if random is None or not stages else _outcomes.paired(outcomes, random),
        kept=kept,
        policy=document,
    )
