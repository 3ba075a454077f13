"""What a search optimises, and what it must stay within: objectives by name, limits on costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autotc.constraints import Constraint


@dataclass(frozen=True)
class Objective:
    """A figure to push up or down."""

    name: str
    direction: Literal["maximize", "minimize"]
    # what a sampler is told where the figure could not be taken; never stored, never shown
    pessimistic: float | None = None


QUALITY = Objective("quality", "maximize", pessimistic=0.0)
COST = Objective("tflops_exact", "minimize")
OBJECTIVES = (QUALITY, COST)

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
