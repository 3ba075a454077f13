"""The vocabulary of the space: places for stages, depths that travel between models, ranges of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from functools import lru_cache
from itertools import product
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autotc.anatomy import Anatomy
from autotc.policy import Policy, map_depth
from autotc.reducer import Reducer
from autotc.reducer import reducers as registry

NONE = "none"
BOTH = "vision+projector"
MAX_STAGES = 3  # cuts inside the vision tower, and inside the language model
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


def distributions(
    budgets: tuple[float, float],
    choices: Mapping[str, Sequence[str]],
    cuts: Mapping[str, int],
    withdrawing: Sequence[str],
    positions: Sequence[str],
    anatomy: Anatomy,
) -> dict[str, BaseDistribution]:
    """Return the parameters of a space; a choice among one is none.

    Args:
        budgets: least and most, TFLOP per 1,000 requests.
        choices: reducers by site.
        cuts: the most stages inside the vision tower and inside the language model.
        withdrawing: reducers that take all tokens out.
        positions: ways to number what is left.
        anatomy: of the model that policies are written for.
    """
    unit = FloatDistribution(0.0, 1.0)
    found: dict[str, BaseDistribution] = {"budget": FloatDistribution(*budgets, log=True)}

    def choose(name: str, options: Sequence[Any]) -> None:
        if len(options) > 1:
            found[name] = CategoricalDistribution(tuple(options))

    choose("input", [NONE, *choices["input"]])
    encoders = [site for site in ("vision", "projector") if choices[site]]
    choose("encoder_sites", [NONE, *encoders, *([BOTH] if len(encoders) > 1 else [])])
    for site in ("vision", "projector", "decoder"):
        choose(f"{site}_reducer", choices[site])
    shares = [site for site in ("input", "projector") if choices[site]]
    for site, least in (("vision", 1), ("decoder", 0)):
        most = cuts[site] if choices[site] else 0
        if most > least:
            found[f"{site}_stages"] = IntDistribution(least, most)
        depths = range(1, most + 1)
        found |= {f"{site}_depth_{i}": unit for i in depths}
        # the last stage of a policy takes what the budget leaves
        shares += [f"{site}_{i}" for i in depths if site != "decoder" or i < most]
    found |= {f"share_{name}": unit for name in shares}
    if withdrawing:
        choose("withdraw", [NONE, *withdrawing])
        found["withdraw_depth"] = unit
    choose("positions", positions)
    for site, names in choices.items():
        if any(len(variants(registry.get(name), anatomy)) > 1 for name in names):
            found[f"{site}_variant"] = unit
    return found


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


def variants(cls: type[Reducer], anatomy: Anatomy) -> tuple[dict[str, Any], ...]:
    """Return settings of a reducer's own parameters: the defaults, one parameter changed at a time, the recipes'.

    A parameter takes its other choices, or the ends and the middle of its range; where the class says `crossed`, all
    combinations of them are settings. One dimension of the space chooses among them, so that a reducer with many
    parameters does not make the space larger for all.

    Args:
        cls: the reducer.
        anatomy: of the model that recipes are written for.
    """
    return _variants(cls.name, anatomy)


@lru_cache(maxsize=1024)
def _variants(name: str, anatomy: Anatomy) -> tuple[dict[str, Any], ...]:
    cls = registry.get(name)
    defaults = {item.name: item.default for item in fields(cls)}
    changes = {item.name: _others(item) for item in fields(cls) if item.metadata.get("search", True)}
    found: list[dict[str, Any]]
    if cls.crossed:
        choices = [[{}, *({name: v} for v in values)] for name, values in changes.items()]
        found = [{k: v for part in parts for k, v in part.items()} for parts in product(*choices)]
    else:
        found = [{}, *({name: v} for name, values in changes.items() for v in values)]
    for preset in cls.presets:
        for stage in preset.stages(anatomy):
            own = {k: v for k, v in stage.params if defaults.get(k) != v}
            if stage.reducer in (None, cls.name) and own not in found:
                found.append(own)
    return tuple(found)


def _others(item: Field[Any]) -> list[Any]:
    """Values of a parameter to try besides its default."""
    meta = item.metadata
    low, high = meta.get("low"), meta.get("high")
    options: list[Any] = list(meta.get("choices") or ())
    if isinstance(item.default, bool):
        options = [not item.default]
    elif not options and low is not None and high is not None:
        middle = math.sqrt(low * high) if meta.get("log") else (low + high) / 2
        options = [low, middle, high]
        options = [round(v) if isinstance(item.default, int) else float(v) for v in options]
    return [v for v in dict.fromkeys(options) if v != item.default]


def variant(cls: type[Reducer], place: float, anatomy: Anatomy) -> dict[str, Any]:
    """Return the variant at a place in [0, 1]: the lower half is the defaults, but where all are crossed."""
    options = variants(cls, anatomy)
    others = len(options) - 1
    if cls.crossed:
        return options[min(int(place * len(options)), others)]
    return (
        options[0]
        if place < 0.5 or not others
        else options[1 + min(int((place - 0.5) * 2 * others), others - 1)]
    )


def variant_place(cls: type[Reducer], params: Mapping[str, Any], anatomy: Anatomy) -> float | None:
    """Return a place in [0, 1] of a variant, None where these parameters are none."""
    options = variants(cls, anatomy)
    if dict(params) not in options:
        return None
    index = options.index(dict(params))
    if cls.crossed:
        return (index + 0.5) / len(options)
    return 0.25 if index == 0 else 0.5 + (index - 0.5) / (2 * (len(options) - 1))


def round_up(value: float) -> str:
    """Four significant digits, rounded up, so that what is proposed is enough."""
    digits = 3 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{math.ceil(value * 10**digits) / 10**digits:.10g}"
