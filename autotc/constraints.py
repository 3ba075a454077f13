"""Constraints as strings: a stored figure or cost, `<=` or `>=`, and a number.

    worst_group_drop <= 0.05      kv_gib <= 0.1      quality >= 0.9

Constraints on costs are limits that trials must meet, since costs are known before anything runs. Constraints on
measured figures decide what is recommended; a front shows the other members too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from autotc.errors import SpecError
from autotc.metrics import METRICS
from autotc.registry import nearest

# Measured figures by name: the smallest and the largest value they can have.
FIGURES = {m.name: (m.low, m.high) for m in METRICS.values() if not m.on_cost}
# Those that are shares of one, written in percent; their differences in points.
SHARES = frozenset(name for name, (_, high) in FIGURES.items() if high == 1.0)
# Costs by name.
COSTS = {m.name: m for m in METRICS.values() if m.on_cost}
_FORM = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Constraint:
    """A limit of one figure or cost; a violation is the excess over it, <= 0 is feasible."""

    name: str
    limit: float
    sense: Literal["<=", ">="] = "<="

    def __str__(self) -> str:
        return f"{self.name} {self.sense} {self.limit:g}"

    @property
    def explained(self) -> str:
        """The constraint, and what it means where its name does not say it."""
        if (self.name, self.sense) != ("worst_group_drop", "<="):
            return str(self)
        return f"{self} (no question group loses more than {100 * self.limit:g} points)"

    @property
    def key(self) -> str:
        """Name of its violation: that of the figure, with `_min` where it is a lower limit."""
        return self.name if self.sense == "<=" else f"{self.name}_min"

    @property
    def on_cost(self) -> bool:
        """Whether it limits a cost, and so which trials may run."""
        return self.name in COSTS

    @property
    def measure(self) -> str:
        """What it limits, whatever the unit: `kv_gib` and `kv_bytes` are one."""
        return COSTS[self.name].field or self.name if self.on_cost else self.name

    @property
    def unit(self) -> float:
        """How much of what it limits is one."""
        return COSTS[self.name].divisor if self.on_cost else 1.0

    def excess(self, value: float) -> float:
        """Return by how much a value breaks it; <= 0 where it does not."""
        return value - self.limit if self.sense == "<=" else self.limit - value

    def cost(self, costs: Mapping[str, Any]) -> float:
        """Return the cost that it limits."""
        return COSTS[self.name].of(costs)

    def violation(self, costs: Mapping[str, Any]) -> float:
        """Return by how much the costs of a policy break it."""
        return self.excess(self.cost(costs))


# How the recommended one is chosen among those that meet the constraints; a budget is there to be used, hence quality.
Best = Literal["quality", "knee", "cheapest"]
BEST: Best = "quality"
# What is recommended loses at most five points in its worst question group, unless the user says otherwise.
DEFAULT = Constraint("worst_group_drop", 0.05)


def parse_constraint(text: str) -> Constraint:
    """Read a constraint.

    Raises:
        SpecError: not of the form, an unknown name, or a value that the figure never has.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise SpecError(
            f"--constraint: {text!r} is not of the form NAME <= NUMBER or NAME >= NUMBER, for example {str(DEFAULT)!r}"
        )
    name, sense, number = match.groups()
    if name not in FIGURES and name not in COSTS:
        raise SpecError(f"--constraint: unknown figure {name!r}. {nearest(name, (*FIGURES, *COSTS))}")
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise SpecError(f"--constraint: {text!r}: {number!r} is not a finite number")
    constraint = Constraint(name, limit, "<=" if sense == "<=" else ">=")
    low, high = FIGURES.get(name, (0.0, math.inf))
    if limit < low if sense == "<=" else limit > high:
        raise SpecError(
            f"--constraint: {str(constraint)!r} can never hold: {name} lies between {low:g} and {high:g}"
        )
    return constraint


def parse_constraints(texts: Iterable[str], limits: Sequence[Constraint] = ()) -> tuple[Constraint, ...]:
    """Read several constraints that have to hold together.

    Args:
        texts: as `parse_constraint` reads them.
        limits: others that hold as well, such as a limit on FLOPs given by an option of its own.

    Raises:
        SpecError: see `parse_constraint`; also two that contradict one another.
    """
    found = tuple(dict.fromkeys(parse_constraint(text) for text in texts))
    everything = (*limits, *found)
    for upper, lower in product(everything, everything):
        if (upper.sense, lower.sense) != ("<=", ">=") or upper.measure != lower.measure:
            continue
        gap = lower.limit - upper.limit * upper.unit / lower.unit
        if gap > 0:
            raise SpecError(
                f"--constraint: {str(upper)!r} and {str(lower)!r} contradict one another: no value meets both, they "
                f"are {gap:.4g} apart"
            )
    return found


def recommending(given: Sequence[Constraint]) -> tuple[Constraint, ...]:
    """Return what a recommended policy has to meet: the user's constraints on measured figures, and `DEFAULT`
    where none of them is about that figure.
    """
    measured = tuple(c for c in given if not c.on_cost)
    return measured if any(c.name == DEFAULT.name for c in measured) else (*measured, DEFAULT)
