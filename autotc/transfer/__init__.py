"""How far one proxy's order of policies holds for another: the ceiling on what a proxy can say about a model.

Two trainings of one small model that differ in nothing but their seed do not order policies alike. No model of
another size can be expected to agree better with the proxy than the proxy's own twin does, so this is printed
beside the figures of a proxy. `autotc bench transfer` measures it and writes the file that this module reads; what
was measured stands in `studies/transfer/README.md`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("ceiling.json")
LEAST = 0.7  # mean rank correlation at equal cost below which nothing is said about another model


@dataclass(frozen=True)
class Ceiling:
    """Rank correlation of policies between models of one family that differ in their training's seed only.

    Args:
        family: whose.
        value: Spearman among policies of equal cost, mean over pairs of models and budgets.
        low, high: 95 % bootstrap limits over policies and images.
        overall: the same over policies of all costs, which the budget alone carries far.
        corrected: `value` without the noise of the examples; None where that cannot be told.
        n_policies, examples: that were compared, and that each was run on.
        models: their names.
        claim_allowed: whether `value` reaches `LEAST`.
        text: one sentence for a reader.
    """

    family: str
    value: float
    low: float
    high: float
    overall: float
    corrected: float | None
    n_policies: int
    examples: int
    models: tuple[str, ...]
    claim_allowed: bool
    text: str


def ceiling(family: str) -> Ceiling | None:
    """Return how far proxies of a family agree among themselves, or None where nobody has measured it."""
    found = _read().get(family)
    return None if found is None else make(family, **found)


def make(
    family: str,
    value: float,
    low: float,
    high: float,
    overall: float,
    corrected: float | None,
    n_policies: int,
    examples: int,
    models: list[str],
) -> Ceiling:
    """Return a ceiling with its verdict and its sentence; the other arguments are as in `Ceiling`."""
    allowed = value >= LEAST
    noise = "" if corrected is None else f"; {corrected:.2f} without the noise of {examples} examples"
    text = (
        f"Transfer ceiling of {family}: {len(models)} small proxies that differ in their seed only order {n_policies} "
        f"policies of equal cost with a rank correlation of {value:.2f} ({low:.2f} to {high:.2f}; "
        f"{overall:.2f} over all costs{noise}). "
    )
    text += (
        "No model can be expected to agree better with a proxy than its twins do."
        if allowed
        else f"Below {LEAST}, so no transfer claim is made: which of two policies of equal cost is better on another "
        "model stays open."
    )
    return Ceiling(
        family, value, low, high, overall, corrected, n_policies, examples, tuple(models), allowed, text
    )


@cache
def _read() -> dict[str, dict]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
