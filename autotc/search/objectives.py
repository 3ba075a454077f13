"""What a search optimises, and what it must stay within: objectives and constraints by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Objective:
    """A figure to push up or down."""

    name: str
    direction: Literal["maximize", "minimize"]
    # what a sampler is told where the figure could not be taken; never stored, never shown
    pessimistic: float | None = None


@dataclass(frozen=True)
class Constraint:
    """An upper limit on an estimated cost; a violation is the excess over it, <= 0 is feasible."""

    name: str
    limit: float

    def violation(self, costs: Mapping[str, Any]) -> float:
        """Return by how much the costs of a policy exceed the limit."""
        return float(costs[self.name]) - self.limit


QUALITY = Objective("quality", "maximize", pessimistic=0.0)
COST = Objective("tflops_exact", "minimize")
OBJECTIVES = (QUALITY, COST)

# Constraint of a trial that crashed or ran out of memory: 1 is a violation, absent otherwise.
FAILED = "failed"


def constraints(
    max_tflops: float | None, convention: str, max_memory_gib: float | None
) -> tuple[Constraint, ...]:
    """Return the limits a user set; the space already meets the one in FLOPs, stored trials may not."""
    limits = ((f"tflops_{convention}", max_tflops), ("memory_gib", max_memory_gib))
    return tuple(Constraint(name, limit) for name, limit in limits if limit is not None)
