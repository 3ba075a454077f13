"""What it costs to keep to an engine: the best policy within the limits against the best that the engine can run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autotc.deploy import ENGINES, Engine
from autotc.picking import decisive
from autotc.statistics import Interval, paired

if TYPE_CHECKING:
    from autotc.store import Store, StudyRow, TrialRow

SAME = (
    "model",
    "evaluated_on",
)  # of studies whose trials answered the same examples, with these of their search
SAME_OPTIONS = ("workload", "data_fingerprint", "skip_bad")
MUCH_LESS = 0.9  # of the cost of the best, below which the comparison is not at about equal cost


@dataclass(frozen=True)
class Price:
    """The price of one engine.

    Args:
        engine: its name.
        title: as it calls itself.
        best: the best on selection within the limits, in words; None where nothing was measured on held-out.
        deployable: the best on selection that the engine runs and that costs no more by the exact count (the best that
            it runs, where nothing of it costs so little), in words; None where nothing of it was measured on held-out.
        best_cost, cost: TFLOP per 1,000 requests (exact) of the two.
        lost: quality of `best` less that of `deployable` on held-out, paired by example; None where they are one.
    """

    engine: str
    title: str
    best: str | None = None
    deployable: str | None = None
    best_cost: float | None = None
    cost: float | None = None
    lost: Interval | None = None

    @property
    def text(self) -> str:
        """One plain sentence."""
        if self.deployable is None:
            return (
                f"Price of {self.title}: not known, nothing that it can run was measured on held-out examples. Search "
                f"with --deploy {self.engine}"
            )
        if self.lost is None:
            return f"Price of {self.title}: none, it runs the best within the limits, {self.best}"
        x, share = self.lost, (self.cost or 0) / (self.best_cost or 1)
        limits = "" if x.low is None or x.high is None else f" [{100 * x.low:.1f}, {100 * x.high:.1f}]"
        said = (
            f"Price of {self.title}: the best it runs, {self.deployable}, is {100 * x.value:.1f} points{limits} behind "
            f"the best, {self.best}, at {share:.0%} of its exact cost (n {x.n} held-out, paired, 95 %)"
        )
        if share < MUCH_LESS:
            said += (
                f". It could spend more: search with --deploy {self.engine} --flops-convention exact --max-tflops "
                f"{self.best_cost:.0f}"
            )
        return said

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "text": self.text}


def prices(store: Store, study: str, within: Callable[[Mapping[str, Any]], bool]) -> list[Price]:
    """Return the price of the engine that a study was made for; of every engine where it was made for none.

    Trials and references are those of the study and of studies of the same model, data and workload in the store that
    were made for an engine where this one was not, or the other way round. Both policies are chosen on selection, the
    difference is on held-out.

    Args:
        within: whether costs are within the limits.
    """
    own = store.study(study)
    if own is None:
        return []
    target, family = own.spec.get("deploy", "hf"), str(own.model.get("family"))
    rows = _measured(store, own, within)
    found = []
    for engine in ENGINES.values():
        if engine.name == "hf" or target not in ("hf", engine.name) or not engine.positions(family):
            continue
        others = [s for s in store.studies() if _siblings(own, s, engine.name)]
        found.append(
            _price(store, engine, [*rows, *(r for s in others for r in _measured(store, s, within))])
        )
    return found


def _siblings(one: StudyRow, other: StudyRow, engine: str) -> bool:
    made_for = {s.spec.get("deploy", "hf") for s in (one, other)}
    return (
        one.name != other.name
        and made_for == {"hf", engine}
        and all(getattr(one, name) == getattr(other, name) for name in SAME)
        and all(one.spec.get(name) == other.spec.get(name) for name in SAME_OPTIONS)
    )


def _measured(store: Store, study: StudyRow, within: Callable[[Mapping[str, Any]], bool]) -> list[TrialRow]:
    return [
        row
        for row in store.trials(study.name, state="complete")
        if row.policy.stages
        and within(row.costs)
        and all(row.number_of("quality", split) for split in ("selection", "held-out"))
    ]


def _price(store: Store, engine: Engine, rows: Iterable[TrialRow]) -> Price:
    def quality(row: TrialRow) -> tuple[float, float]:
        number = decisive(row.number_of, "quality", "selection")
        assert number is not None
        return number.value, -float(row.costs["tflops_exact"])

    rows = list(rows)
    runs = [row for row in rows if not engine.refusals(row.policy)]
    if not runs:
        return Price(engine.name, engine.title)
    best = max(rows, key=quality)
    cost = float(best.costs["tflops_exact"])
    mine = max([r for r in runs if r.costs["tflops_exact"] <= cost * (1 + 1e-9)] or runs, key=quality)
    found = Price(
        engine.name, engine.title, _named(best), _named(mine), cost, float(mine.costs["tflops_exact"])
    )
    if best is mine:
        return found
    one, other = (store.outcomes(row.id, "held-out") for row in (best, mine))
    _, here, there = np.intersect1d(one["id"], other["id"], return_indices=True)
    return replace(found, lost=paired(one["correct"][here], other["correct"][there], one["image"][here]))


def _named(row: TrialRow) -> str:
    name = row.label if row.role == "reference" else f"trial {row.number} of {row.study}"
    return f"{name} ({row.policy.describe()})"
