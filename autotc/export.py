"""From stored trials to a front, and from a front to the one policy that leaves as JSON."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotc import __version__
from autotc.calibration import verdict
from autotc.charts import FrontChart, Point, Role
from autotc.constraints import Constraint
from autotc.errors import SpecError
from autotc.metrics import COST, OBJECTIVES, QUALITY, Metric
from autotc.pareto import non_dominated
from autotc.picking import decisive
from autotc.policy import Number, Policy

if TYPE_CHECKING:
    from autotc.store import Store, TrialRow

BASELINES = ("uncompressed", "random", "downsample")
UNITS = {
    "tflops_literature": "TFLOP/1000 requests",
    "tflops_exact": "TFLOP/1000 requests",
    "memory_gib": "GiB",
    "latency_ms": "ms",
    "kv_bytes": "bytes",
    "visual_tokens": "tokens",
}


@dataclass(frozen=True)
class Member:
    """A trial as a reader of a front sees it.

    Args:
        trial: its number in the study; references have their label instead.
        label: name of a reference or preset, else None.
        policy: for the full model.
        numbers: measured qualities and estimated costs, each with unit, kind, split, standard error and n.
        environment: versions and machine that it was run with; None where nobody recorded them.
    """

    trial: int | str
    label: str | None
    policy: Policy
    numbers: tuple[Number, ...]
    environment: dict[str, Any] | None = None

    @property
    def reference(self) -> bool:
        """Whether this is a reference and so outside the front."""
        return self.label is not None

    def number(self, name: str, split: str | None = None) -> Number | None:
        """Return a figure by name, of one split or of the most trustworthy one at hand."""
        found = {n.split: n for n in self.numbers if n.name == name}
        order: Sequence[str | None] = (split,) if split else ("held-out", "selection", "search", None)
        return next((found[s] for s in order if s in found), None)

    def value(self, name: str, split: str | None = None) -> float:
        """Return the value of a figure.

        Raises:
            SpecError: it was not measured.
        """
        number = self.number(name, split)
        if number is None:
            raise SpecError(f"trial {self.trial}: no {name}{f' on {split}' if split else ''} is stored")
        return number.value

    def decisive(self, name: str, split: str) -> Number:
        """Return a figure as members are compared by it (`autotc.picking`).

        Raises:
            SpecError: it was not measured.
        """
        self.value(name, split)
        found = decisive(self.number, name, split)
        assert found is not None
        return found

    def measure(self, metric: Metric, split: str | None = None) -> Number | None:
        """Return a figure of a split, or a cost in the metric's own unit; None where it is not stored."""
        if not metric.on_cost:
            return self.number(metric.name, split)
        found = self.number(str(metric.field))
        if found is None or found.name == metric.name:
            return found
        scaled = {"name": metric.name, "value": found.value / metric.divisor, "unit": metric.unit}
        error = None if found.stderr is None else found.stderr / metric.divisor
        return found.model_copy(update={**scaled, "stderr": error})

    def point(self, objectives: Sequence[Metric], split: str) -> tuple[float, ...] | None:
        """Return a value an objective, as members are compared by it; None where one is missing."""
        found = [self.measure(m) if m.on_cost else decisive(self.number, m.name, split) for m in objectives]
        return None if None in found else tuple(n.value for n in found if n is not None)

    @property
    def costs(self) -> dict[str, float]:
        """Costs by name: estimates, or what was measured in their place."""
        return {n.name: n.value for n in self.numbers if n.name in UNITS}

    def as_dict(self) -> dict[str, Any]:
        """Return the shape of the outside contract."""
        return {
            "trial": self.trial,
            "label": self.label,
            "policy": self.policy.model_dump(mode="json", by_alias=True, exclude_none=True),
            "reference": self.reference,
            "metrics": [n.model_dump(mode="json") for n in self.numbers],
            "environment": self.environment,
        }


def member(row: TrialRow) -> Member:
    """Turn a stored trial into a member: its numbers, and its costs where they are estimates for the full model."""
    measured = {n.name for n in row.numbers}
    costs = tuple(
        Number(name=name, value=row.costs[name], unit=unit, kind="estimated", on=str(row.policy.model.id))
        for name, unit in UNITS.items()
        if name in row.costs and name not in measured
    )
    reference = row.role == "reference"
    label = (row.label or row.policy.describe()) if reference else None
    trial = label if label is not None else row.number or 0
    return Member(trial, label, row.policy, (*row.numbers, *costs), row.environment)


def members(store: Store, study: str) -> list[Member]:
    """Return every completed trial and reference of a study.

    Raises:
        SpecError: no such study; the message names those there are.
    """
    if store.study(study) is None:
        names = [s.name for s in store.studies()]
        known = "Stored here: " + ", ".join(names) if names else "The database holds no study yet"
        raise SpecError(f"unknown study {study!r} in {store.url_shown}. {known}. See: autotc list studies")
    return [member(r) for r in store.trials(study) if r.state == "complete" and r.numbers]


def front(
    everything: Sequence[Member],
    limit: float | None = None,
    convention: str = "literature",
    constraints: Sequence[Constraint] = (),
    objectives: Sequence[Metric] = OBJECTIVES,
) -> tuple[list[Member], str]:
    """Return the Pareto front within a limit, cheapest first, and the split it rests on.

    The front is drawn on the selection split where trials were measured there, with quality as `autotc.picking` pools
    it; otherwise on the search split.

    Args:
        limit: TFLOP per 1,000 requests in the named convention; None for no limit.
        constraints: others; those on costs are limits too, those on measured figures leave the front alone.
        objectives: quality up and exact cost down, where no others are named.
    """
    named = () if limit is None else (Constraint(f"tflops_{convention}", limit),)
    limits = [*named, *(c for c in constraints if c.on_cost)]
    for split in ("selection", "search"):
        rows = [
            m
            for m in everything
            if not m.reference
            and m.number("quality", split)
            and all(c.violation(m.costs) <= 0 for c in limits)
        ]
        if rows:
            missing = (np.nan,) * len(objectives)
            points = np.array([m.point(objectives, split) or missing for m in rows])
            mask = non_dominated(points, [m.maximise for m in objectives])
            kept = [m for m, keep in zip(rows, mask, strict=True) if keep]
            return sorted(kept, key=lambda m: m.value("tflops_exact")), split
    return [], "search"


def document(
    chosen: Member, study: str, workload: dict[str, Any], recommendation: dict[str, Any] | None = None
) -> Policy:
    """Return the policy with what was measured and where it comes from, ready to leave as JSON.

    Args:
        recommendation: whether it is recommended, and why (not), as plain data.
    """
    provenance = {"study": study, "trial": chosen.trial, "autotc": __version__, "workload": workload}
    if chosen.environment is not None:
        provenance["environment"] = chosen.environment
    if recommendation is not None:
        provenance["recommendation"] = recommendation
    quality = chosen.number("quality")
    if quality is not None and (judged := verdict(quality.on)) is not None:
        provenance["calibration"] = judged.text
    return chosen.policy.model_copy(update={"expected": chosen.numbers, "provenance": provenance})


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        SpecError: the folder is missing or cannot be written to.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from error


def chart(
    everything: Sequence[Member],
    chosen: Sequence[Member],
    split: str,
    title: str,
    subtitle: str,
    x: Metric = COST,
    y: Metric = QUALITY,
    stairs: bool = True,
) -> FrontChart:
    """Return the picture of a front among all trials, with references and presets.

    Args:
        x, y: what stands on the axes.
        stairs: whether the front is one of these two alone, and so a line.
    """
    on_front = {m.trial for m in chosen}
    points = []
    for m in everything:
        here, quality = m.measure(y, split), m.number("quality", split)
        if here is None or quality is None:
            if m.reference:
                continue
            here, quality = m.measure(y), m.number("quality")
        place = m.measure(x, split) or m.measure(x)
        if here is None or place is None or quality is None:
            continue
        role: Role = "front" if m.trial in on_front else "trial"
        if m.reference:
            role = "reference" if m.label in BASELINES else "preset"
        points.append(
            Point(
                cost=place.value,
                quality=here.value,
                stderr=here.stderr,
                role=role,
                label=m.label or f"#{m.trial}",
                detail=f"{escape(m.label or f'trial {m.trial}')}: {escape(m.policy.describe())}<br>"
                f"{quality.value:.1%} ± {quality.stderr or 0:.1%} on {quality.split}, n {quality.n}<br>"
                f"{m.value('tflops_exact'):,.0f} TFLOP exact, {m.value('tflops_literature'):,.0f} literature"
                + "".join(
                    f"<br>{axis(a, split)}: {n.value:.4g}"
                    for a, n in ((x, place), (y, here))
                    if a not in OBJECTIVES
                ),
                trial=m.trial,
            )
        )
    return FrontChart(title, subtitle, points, axis(y, split), axis(x, split), stairs=stairs, percent=y.share)


def axis(metric: Metric, split: str) -> str:
    """Return what a metric is called beside an axis."""
    if metric.name.startswith("tflops_"):
        return f"TFLOP per 1,000 requests ({metric.name.removeprefix('tflops_')}, estimated)"
    return metric.label if metric.on_cost else f"{metric.label} on {split}"
