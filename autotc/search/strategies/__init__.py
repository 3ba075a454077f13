"""Strategies of the search by name, one file each; see `base.Strategy` for what one is.

Rivals search the space of `autotc search`, start from presets and stop losers early, as the default does. Published
searches are tried as their papers describe them: schedules of their own, from nothing, every trial on all examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import cast

from autotc.errors import SpecError
from autotc.metrics import OBJECTIVES, Metric
from autotc.registry import nearest
from autotc.search.space import Space
from autotc.search.spec import PUBLISHED, RIVALS
from autotc.search.strategies.base import Proposed, Seen, Strategy

__all__ = [
    "NAMES",
    "PUBLISHED",
    "RIVALS",
    "Proposed",
    "Seen",
    "Strategy",
    "calibrated_on",
    "check_name",
    "make",
    "starts_from_presets",
]

NAMES = ("default", *RIVALS, *PUBLISHED)


def make(name: str, space: Space, seed: int, objectives: Sequence[Metric] = OBJECTIVES) -> Strategy:
    """Return a strategy for a study.

    Args:
        name: one of `NAMES`.
        space: of the study.
        seed: of the study.
        objectives: of the study.

    Raises:
        SpecError: unknown name, the space lacks what the strategy needs, or it knows only quality at a cost.
    """
    check_name(name)
    module = import_module(f"autotc.search.strategies.{name.replace('-', '_')}")
    if tuple(objectives) == OBJECTIVES:
        return cast(Strategy, module.make(space, seed))
    if name in PUBLISHED:
        raise SpecError(
            f"--objective: --strategy {name} searches quality at a cost, as published; leave one of the two out"
        )
    return cast(Strategy, module.make(space, seed, objectives))


def check_name(name: str) -> None:
    """Raise a SpecError for a name that is no strategy's."""
    if name not in NAMES:
        raise SpecError(f"--strategy: {name!r} is not known. {nearest(name, NAMES)}")


def calibrated_on(strategy: Strategy) -> int:
    """Return how many examples a strategy has run before its first proposal, which count as evaluations."""
    return int(getattr(strategy, "calibration", 0))


def starts_from_presets(name: str) -> bool:
    """Return whether a strategy is given presets as its first points, and has losers stopped early."""
    return name == "default" or name in RIVALS
