"""Tree-structured Parzen estimators on the search's space, budgets spread evenly over the range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autotc.metrics import OBJECTIVES, Metric
from autotc.search.space import Space
from autotc.search.strategies.drawn import Drawn
from autotc.search.strategies.spread import budget_place


def make(space: Space, seed: int, objectives: Sequence[Metric] = OBJECTIVES) -> Drawn:
    """Return the strategy."""

    def given(number: int) -> dict[str, Any]:
        return {"budget": space.low * (space.high / space.low) ** budget_place(seed, number)}

    return Drawn(space, seed, "tpe", given, objectives=objectives)
