"""A genetic algorithm on the search's space (Optuna's NSGAIISampler)."""

from __future__ import annotations

from collections.abc import Sequence

from autotc.metrics import OBJECTIVES, Metric
from autotc.search.space import Space
from autotc.search.strategies.drawn import Drawn


def make(space: Space, seed: int, objectives: Sequence[Metric] = OBJECTIVES) -> Drawn:
    """Return the strategy."""
    return Drawn(space, seed, "nsga2", objectives=objectives)
