"""How good a set of policies is: the area under the held-out quality of what one would pick at each cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Candidates:
    """Policies to pick from.

    Args:
        cost: (P,) exact.
        picking: (P,) quality on the examples that policies are picked by.
        held: (P,) quality on the held-out examples.
    """

    cost: np.ndarray
    picking: np.ndarray
    held: np.ndarray

    def __add__(self, other: Candidates) -> Candidates:
        return Candidates(
            *(np.concatenate([getattr(self, k), getattr(other, k)]) for k in ("cost", "picking", "held"))
        )


def picks(found: Candidates) -> np.ndarray:
    """Return the indices of the policies that are picked at some cost, cheapest first: the front when picking."""
    order = np.lexsort([-found.picking, found.cost])
    best = np.maximum.accumulate(found.picking[order])
    rises = np.concatenate([[True], best[1:] > best[:-1]]) if len(order) else np.zeros(0, bool)
    return order[rises]


def area(found: Candidates, most: float, least: float) -> float:
    """Return the area under the held-out quality of the pick at each cost, above a level, up to a cost.

    Where picks are the held-out front this is its hypervolume. A pick that is worse on held-out examples than a
    cheaper one makes the area smaller: the examples that policies are picked by do not score them.

    Args:
        found: policies to pick from.
        most: exact cost up to which it counts.
        least: quality that is worth nothing, that of the model without the image.
    """
    front = picks(found)
    front = front[found.cost[front] < most]
    if not len(front):
        return 0.0
    widths = np.diff(np.append(found.cost[front], most))
    return float(np.maximum(found.held[front] - least, 0.0) @ widths)


def gap_closed(value: float, presets: float, best: float) -> float:
    """Return (area - area of the presets) / (best known area - area of the presets); NaN where nothing is between."""
    return (value - presets) / (best - presets) if best > presets else float("nan")


def best_at(found: Candidates, limit: float) -> float:
    """Return the held-out quality of what is picked within a cost; NaN where nothing costs so little."""
    within = np.flatnonzero(found.cost <= limit)
    if not len(within):
        return float("nan")
    order = np.lexsort([found.cost[within], -found.picking[within]])
    return float(found.held[within[order[0]]])
