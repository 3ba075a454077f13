"""A genetic algorithm on the search's space (Optuna's NSGAIISampler)."""

from __future__ import annotations

from autotc.search.space import Space
from autotc.search.strategies.drawn import Drawn


def make(space: Space, seed: int) -> Drawn:
    """Return the strategy."""
    return Drawn(space, seed, "nsga2")
