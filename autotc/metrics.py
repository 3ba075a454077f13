"""The figures and costs that a search can aim at or be limited by: one table, read by objectives and constraints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autotc.errors import SpecError
from autotc.registry import nearest

FEWEST, MOST = 2, 4  # objectives of a search


@dataclass(frozen=True)
class Metric:
    """A figure measured on examples, or a cost of a policy.

    Args:
        name: as stored, and as objectives and constraints call it.
        maximise: whether more of it is better.
        low, high: the smallest and the largest value that it can have.
        worst: what a search takes where a figure could not be measured, and the corner from which a front's volume
            is counted; never stored and never shown as a value. Costs have none: their corner is the uncompressed
            model's.
        unit: of a cost; a figure is stored with its own.
        field: of the cost estimate that holds it; None where it is measured.
        divisor: of that field's value.
    """

    name: str
    maximise: bool = False
    low: float = 0.0
    high: float = math.inf
    worst: float = math.nan
    unit: str = ""
    field: str | None = None
    divisor: float = 1.0

    @property
    def on_cost(self) -> bool:
        """Whether it is a cost, known before anything runs."""
        return self.field is not None

    @property
    def share(self) -> bool:
        """Whether it is a share of one, written in percent."""
        return self.high == 1.0

    @property
    def label(self) -> str:
        """Its name in words, with the unit of a cost."""
        words = self.name
        for unit in ("_gib", "_bytes", "_ms"):
            words = words.removesuffix(unit)
        words = words.replace("_", " ")
        return f"{words} ({self.unit})" if self.on_cost else words

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """As Optuna writes it."""
        return "maximize" if self.maximise else "minimize"

    def of(self, costs: Mapping[str, Any]) -> float:
        """Return a cost from the costs of a policy."""
        assert self.field is not None
        return float(costs[self.field]) / self.divisor


def _cost(name: str, unit: str, field: str | None = None, divisor: float = 1.0) -> Metric:
    return Metric(name, unit=unit, field=field or name, divisor=divisor)


TFLOP = "TFLOP/1000 requests"
METRICS = {
    m.name: m
    for m in (
        Metric("quality", True, high=1.0, worst=0.0),
        Metric("worst_group", True, high=1.0, worst=0.0),
        Metric("worst_group_drop", low=-1.0, high=1.0, worst=1.0),
        Metric("agreement", True, high=1.0, worst=0.0),
        Metric("next_question", True, high=1.0, worst=0.0),
        Metric("grounded", True, low=-math.inf, worst=0.0),
        Metric("kl", worst=12.0),  # nats: about what guessing among 150,000 tokens gives
        _cost("tflops_exact", TFLOP),
        _cost("tflops_literature", TFLOP),
        _cost("memory_gib", "GiB"),
        _cost("kv_gib", "GiB a request", "kv_bytes", 2.0**30),
        _cost("kv_bytes", "bytes a request"),
        _cost("latency_ms", "ms"),
        _cost("visual_tokens", "tokens"),
    )
}
QUALITY, COST = METRICS["quality"], METRICS["tflops_exact"]
OBJECTIVES = (QUALITY, COST)  # of a search that names none


def known(name: str, option: str) -> Metric:
    """Return a metric by name.

    Raises:
        SpecError: there is none of that name; the message names the option and the nearest one.
    """
    if name not in METRICS:
        raise SpecError(f"{option}: unknown metric {name!r}. {nearest(name, METRICS)}")
    return METRICS[name]


def parse_objectives(names: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics that a search aims at, figures first; without names `OBJECTIVES`.

    Raises:
        SpecError: an unknown name, one named twice, too few or too many, or none of one of the two kinds.
    """
    if not names:
        return OBJECTIVES
    found = tuple(known(name, "--objective") for name in names)
    for i, one in enumerate(found):
        twin = next((m for m in found[:i] if one == m or (one.on_cost and one.field == m.field)), None)
        if twin is not None:
            raise SpecError(f"--objective: {twin.name} and {one.name} are the same; name it once")
    if not FEWEST <= len(found) <= MOST:
        raise SpecError(
            f"--objective: {len(found)} given; a front needs {FEWEST} to {MOST}, for example quality, tflops_exact and "
            "kv_gib"
        )
    if not any(m.on_cost for m in found):
        costs = ", ".join(name for name, m in METRICS.items() if m.on_cost)
        raise SpecError(
            "--objective: no cost is among them, and without one the uncompressed model wins. Add one of "
            + costs
        )
    if all(m.on_cost for m in found):
        figures = ", ".join(name for name, m in METRICS.items() if not m.on_cost)
        raise SpecError("--objective: only costs, and then keeping nothing wins. Add one of " + figures)
    return tuple(m for m in METRICS.values() if m in found)
