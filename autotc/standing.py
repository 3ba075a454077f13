"""How the members of a stored front stand on held-out examples: intervals, and a verdict against the references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotc.export import Member
from autotc.statistics import LEVEL, Interval, holm, p_value, paired, share

if TYPE_CHECKING:
    from autotc.store import Store


@dataclass(frozen=True)
class Standing:
    """A member of a front, or a reference, on held-out examples.

    Args:
        quality: its score with a 95 % interval, clustered by image.
        rival: the best reference on selection that costs no more by the exact count; None where there is none, and for
            references.
        difference: quality less that of the rival, paired by example.
        p_holm: p value of the difference, adjusted for the members that are compared (Holm).
        verdict: better, worse or unclear; None without a rival.
    """

    quality: Interval
    rival: str | None = None
    difference: Interval | None = None
    p_holm: float | None = None
    verdict: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def standings(
    store: Store, study: str, front: Sequence[Member], references: Sequence[Member]
) -> dict[int | str, Standing]:
    """Return how members and references stand, by trial or label; those without held-out outcomes are left out."""
    numbers = [m.trial for m in front if isinstance(m.trial, int)]
    rows = [*store.trials(study, role="reference"), *store.trials(study, numbers=numbers)]
    ids = {(r.label or r.policy.describe()) if r.role == "reference" else r.number: r for r in rows}
    columns: dict[int | str, Any] = {
        m.trial: store.outcomes(ids[m.trial].id, "held-out")
        for m in (*front, *references)
        if m.number("quality", "held-out") is not None
    }
    found = {name: Standing(share(c["correct"], c["image"])) for name, c in columns.items()}
    compared: list[tuple[int | str, str, Interval, float]] = []
    for m in front:
        cheaper = [
            r
            for r in references
            if r.trial in columns
            and r.number("quality", "selection") is not None
            and r.value("tflops_exact") <= m.value("tflops_exact") * (1 + 1e-9)
        ]
        if m.trial not in columns or not cheaper:
            continue
        rival = max(cheaper, key=lambda r: r.decisive("quality", "selection").value)
        difference = _difference(columns[m.trial], columns[rival.trial])
        p = p_value(difference)
        if p is not None:
            compared.append((m.trial, str(rival.trial), difference, p))
    for (name, rival_name, difference, _), p in zip(compared, holm([c[3] for c in compared]), strict=True):
        word = "unclear" if p >= 1 - LEVEL else "better" if difference.value > 0 else "worse"
        found[name] = Standing(found[name].quality, rival_name, difference, float(p), word)
    return found


def _difference(one: Any, other: Any) -> Interval:
    """Return the paired difference over the examples that both have."""
    _, mine, theirs = np.intersect1d(one["id"], other["id"], return_indices=True)
    return paired(one["correct"][mine], other["correct"][theirs], one["image"][mine])
