"""Tree-structured Parzen estimators on the search's space, budgets included (Optuna's TPESampler)."""

from __future__ import annotations

from autotc.search.space import Space
from autotc.search.strategies.drawn import Drawn


def make(space: Space, seed: int) -> Drawn:
    """Return the strategy."""
    return Drawn(space, seed, "tpe")
