"""Budgets spread evenly over the range of a study."""

from __future__ import annotations

from autotc.search import samplers

GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill [0, 1] evenly at any count


def budget_place(seed: int, number: int) -> float:
    """Return where in [0, 1) of the range of budgets the trial of a number lies."""
    return (number * GOLDEN + samplers.trial_seed(seed, 0) / 2**32) % 1.0
