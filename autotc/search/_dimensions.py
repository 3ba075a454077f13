"""The vocabulary of the space: places for stages, depths that travel between models, ranges of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from autotc.policy import Policy, map_depth
from autotc.reducer import Reducer

NONE = "none"
MAX_DECODER_STAGES = 3
SPAN = 4.0  # budgets are drawn from limit / SPAN to the limit, on a logarithmic scale
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


def counts(policy: Policy, sizes: Iterable[int]) -> tuple[object, ...]:
    """Return what a policy does to images of some sizes (in visual tokens): equal counts are one policy.

    Keeps that differ by less than a token, as a preset's and a proposal's may, give the same counts.
    """
    several = sorted(set(sizes))
    stages = [
        (s.site, s.layer, s.reducer, tuple(sorted(s.params.items())), *(s.tokens(n) for n in several))
        for s in policy.stages
    ]
    return (policy.positions, *stages)


def variants(cls: type[Reducer]) -> tuple[dict[str, Any], ...]:
    """Return settings of a reducer's own parameters: the defaults, then one parameter changed at a time.

    A parameter takes its other choices, or the ends and the middle of its range. One dimension of the space
    chooses among them, so that a reducer with many parameters does not make the space larger for all.
    """
    found: list[dict[str, Any]] = [{}]
    for item in fields(cls):
        meta = item.metadata
        if not meta.get("search", True):
            continue
        low, high = meta.get("low"), meta.get("high")
        options: list[Any] = list(meta.get("choices") or ())
        if isinstance(item.default, bool):
            options = [not item.default]
        elif not options and low is not None and high is not None:
            middle = math.sqrt(low * high) if meta.get("log") else (low + high) / 2
            options = [low, middle, high]
            options = [round(v) if isinstance(item.default, int) else float(v) for v in options]
        found += [{item.name: v} for v in dict.fromkeys(options) if v != item.default]
    return tuple(found)


def variant(cls: type[Reducer], place: float) -> dict[str, Any]:
    """Return the variant at a place in [0, 1]: the lower half is the defaults."""
    options = variants(cls)
    others = len(options) - 1
    return (
        options[0]
        if place < 0.5 or not others
        else options[1 + min(int((place - 0.5) * 2 * others), others - 1)]
    )


def variant_place(cls: type[Reducer], params: Mapping[str, Any]) -> float | None:
    """Return a place in [0, 1] of a variant, None where these parameters are none."""
    options = variants(cls)
    if dict(params) not in options:
        return None
    index = options.index(dict(params))
    return 0.25 if index == 0 else 0.5 + (index - 0.5) / (2 * (len(options) - 1))


def round_up(value: float) -> str:
    """Four significant digits, rounded up, so that what is proposed is enough."""
    digits = 3 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{math.ceil(value * 10**digits) / 10**digits:.10g}"
