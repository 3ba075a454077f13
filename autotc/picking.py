"""The figure that policies are chosen by: quality on the examples of the search and of selection together."""

from __future__ import annotations

from collections.abc import Callable
from math import hypot

from autotc.policy import Number

QUALITY = "quality"


def decisive(figure: Callable[[str, str], Number | None], name: str, split: str) -> Number | None:
    """Return a figure as policies are compared by it before one is chosen.

    It is that of the split, but for quality on selection, which is pooled with that on the search's examples. There
    the search's policies look too good, but all of them: their order is better known from all examples than from
    half of them, so that regret on held-out is smaller and rises less with more trials (`autotc bench search`). How
    good the chosen one is, is still said on selection and held-out alone.

    Args:
        figure: returns a stored figure by name and split.
        name, split: of the figure.
    """
    found, before = figure(name, split), figure(name, "search")
    if (name, split) != (QUALITY, "selection") or found is None or before is None:
        return found
    if not found.n or not before.n or (found.unit, found.on) != (before.unit, before.on):
        return found
    n = found.n + before.n
    stderr = None
    if found.stderr is not None and before.stderr is not None:
        stderr = hypot(found.n * found.stderr, before.n * before.stderr) / n
    value = (found.n * found.value + before.n * before.value) / n
    return found.model_copy(
        update={"value": value, "stderr": stderr, "n": n, "split": "search and selection"}
    )
