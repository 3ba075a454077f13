"""How far a search had come after each of its trials: the volume that its front covers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotc.export import Member
from autotc.metrics import Metric
from autotc.pareto import hypervolume_history

SPLIT = "search"


@dataclass(frozen=True)
class History:
    """The share of the volume between two corners that the front on the search examples covers.

    With two objectives the volume is an area. It lies between the reference point (the uncompressed model's costs, and
    the worst that each figure can be) and the ideal one (no cost, and the uncompressed model's figures). Policies that
    are better than the uncompressed model reach beyond it.

    Args:
        reference, ideal: by objective.
        trials: numbers, in order.
        share: after each of them.
    """

    reference: Mapping[str, float]
    ideal: Mapping[str, float]
    trials: Sequence[int]
    share: Sequence[float]

    @property
    def text(self) -> str:
        """Which volume, in words."""
        corners = (", ".join(f"{k} {_short(v)}" for k, v in c.items()) for c in (self.reference, self.ideal))
        word = "area" if len(self.reference) == 2 else "volume"
        return "{} between ({}) and ({}), front on the search examples".format(word, *corners)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        after = [{"trial": t, "share": v} for t, v in zip(self.trials, self.share, strict=True)]
        return {"reference_point": dict(self.reference), "ideal_point": dict(self.ideal), "after": after}


def history(
    everything: Sequence[Member],
    objectives: Sequence[Metric],
    within: Callable[[Mapping[str, Any]], bool] = lambda costs: True,
) -> History | None:
    """Return the history of a study's trials, None where there are none or the uncompressed model was not measured.

    Args:
        everything: trials and references, the trials in the order of their numbers. Those that were stopped early saw
            fewer examples than the uncompressed model and add nothing.
        objectives: of the study.
        within: whether costs are within the limits; what is beyond them adds nothing.
    """
    plain = next((m for m in everything if not m.policy.stages), None)
    full = None if plain is None else plain.point(objectives, SPLIT)
    quality = None if plain is None else plain.number("quality", SPLIT)
    trials = [m for m in everything if not m.reference and m.number("quality", SPLIT)]
    if full is None or quality is None or not trials:
        return None
    reference = [value if m.on_cost else m.worst for m, value in zip(objectives, full, strict=True)]
    ideal = [0.0 if m.on_cost else value for m, value in zip(objectives, full, strict=True)]
    whole = 1.0
    for m, worst, best in zip(objectives, reference, ideal, strict=True):
        whole *= best - worst if m.maximise else worst - best
    if whole <= 0:
        return None
    missing = (float("nan"),) * len(objectives)
    points = [
        (m.point(objectives, SPLIT) or missing)
        if within(m.costs) and (n := m.number("quality", SPLIT)) is not None and n.n == quality.n
        else missing
        for m in trials
    ]
    volumes = hypervolume_history(points, reference, [m.maximise for m in objectives])
    names = [m.name for m in objectives]
    return History(
        dict(zip(names, reference, strict=True)),
        dict(zip(names, ideal, strict=True)),
        [int(m.trial) for m in trials],
        [float(v) / whole for v in volumes],
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
