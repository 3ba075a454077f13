"""What a search optimises, and what it must stay within: objectives by name, limits on costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autotc.constraints import Constraint
from autotc.metrics import COST, OBJECTIVES, QUALITY, Metric
from autotc.picking import decisive
from autotc.store import TrialRow

__all__ = ["COST", "FAILED", "OBJECTIVES", "QUALITY", "broken", "limits", "point", "told", "violations"]

# Constraint of a trial that crashed or ran out of memory: 1 is a violation, absent otherwise.
FAILED = "failed"


def limits(max_tflops: float | None, convention: str, max_memory_gib: float | None) -> tuple[Constraint, ...]:
    """Return the limits a user set by options of their own; the space already meets the one in FLOPs, stored
    trials may not.
    """
    named = ((f"tflops_{convention}", max_tflops), ("memory_gib", max_memory_gib))
    return tuple(Constraint(name, limit) for name, limit in named if limit is not None)


def violations(constraints: Sequence[Constraint], costs: Mapping[str, Any]) -> dict[str, float]:
    """Return by how much costs break each limit on them, the largest excess where a figure has several limits."""
    found: dict[str, float] = {}
    for constraint in constraints:
        if constraint.on_cost:
            excess = constraint.violation(costs)
            found[constraint.key] = max(excess, found.get(constraint.key, excess))
    return found


def broken(constraints: Sequence[Constraint], costs: Mapping[str, Any]) -> list[str]:
    """Return each limit that costs break, in words."""
    return [
        f"{c.name} {c.cost(costs):.4g}" + ("" if c.sense == "<=" else f" ({c})")
        for c in constraints
        if c.on_cost and c.violation(costs) > 0
    ]


def point(
    row: TrialRow, objectives: Sequence[Metric] = OBJECTIVES, split: str = "search"
) -> tuple[float, ...] | None:
    """Return where a trial lies, a value an objective; None where a figure was not measured on the split."""
    found = []
    for metric in objectives:
        number = None if metric.on_cost else decisive(row.number_of, metric.name, split)
        if number is None and not metric.on_cost:
            return None
        found.append(metric.of(row.costs) if number is None else number.value)
    return tuple(found)


def told(
    figures: Mapping[str, float | None], costs: Mapping[str, Any], objectives: Sequence[Metric] = OBJECTIVES
) -> tuple[float, ...]:
    """Return what a sampler is told of a trial: a figure that could not be taken as the worst it can be."""
    return tuple(
        m.of(costs) if m.on_cost else m.worst if (value := figures.get(m.name)) is None else float(value)
        for m in objectives
    )
