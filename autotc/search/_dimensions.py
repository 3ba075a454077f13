"""The vocabulary of the space: places for stages, depths that travel between models, ranges of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autotc.policy import map_depth
from autotc.reducer import Reducer

NONE = "none"
MAX_DECODER_STAGES = 3
SPAN = 8.0  # budgets are drawn from limit / SPAN to the limit, on a logarithmic scale
CONTROLS = ("random",)  # always there as a reference; proposed only when asked for by name
LEAST = 1e-6  # a keep that every image rounds up to one token


@dataclass(frozen=True)
class Slot:
    """A place for a stage: where, by which reducer, and which parameter holds its share of the saving."""

    site: str
    layer: int | None
    reducer: str
    share: str = ""
    zero: bool = False


def proposal_depths(depth: int, evaluated: int) -> tuple[int, ...]:
    """Return the layers of a model of `depth` layers that travel to the evaluated one and back unchanged."""
    there = {map_depth(p, evaluated, depth): p for p in range(1, evaluated)}
    return tuple(sorted(k for k, p in there.items() if map_depth(k, depth, evaluated) == p))


def parameters(cls: type[Reducer]) -> dict[str, BaseDistribution]:
    """Return the search ranges of a reducer's own parameters, named `reducer.parameter`."""
    found: dict[str, BaseDistribution] = {}
    for item in fields(cls):
        meta = item.metadata
        if not meta.get("search", True):
            continue
        choices = meta.get("choices") or ((False, True) if isinstance(item.default, bool) else None)
        if choices:
            found[f"{cls.name}.{item.name}"] = CategoricalDistribution(tuple(choices))
        elif meta.get("low") is not None and meta.get("high") is not None:
            kind = IntDistribution if isinstance(item.default, int) else FloatDistribution
            found[f"{cls.name}.{item.name}"] = kind(meta["low"], meta["high"], log=bool(meta.get("log")))
    return found


def chosen(cls: type[Reducer], params: Mapping[str, Any]) -> dict[str, Any]:
    """The reducer's own parameters of a point, defaults left out so that a published method keeps its id."""
    return {
        item.name: params[key]
        for item in fields(cls)
        if (key := f"{cls.name}.{item.name}") in params and params[key] != item.default
    }


def round_up(value: float) -> str:
    """Four significant digits, rounded up, so that what is proposed is enough."""
    digits = 3 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{math.ceil(value * 10**digits) / 10**digits:.10g}"
