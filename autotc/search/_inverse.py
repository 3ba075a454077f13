"""From a policy back to the point of the space that decodes to it: a search can start from presets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from autotc.cost import estimate
from autotc.policy import Policy, Stage
from autotc.reducer import reducers as registry
from autotc.search._dimensions import LEAST, NONE, variant_place
from autotc.search.space import Space


class _NotThere(Exception):
    """The space has no such depth under this budget."""


def encode(space: Space, policy: Policy) -> dict[str, Any] | None:
    """Return the point that decodes to a policy, to within a token a stage; None where the space has none."""
    sites: dict[str, list[Stage]] = {site: [] for site in space.choices}
    for stage in policy.stages:
        sites[stage.site].append(stage)
    withdrawals = [s for s in sites["decoder"] if s.keep == 0]
    decoder = [s for s in sites["decoder"] if s.keep > 0]
    encoder = sites["vision"] + sites["projector"]
    known = all(
        s.reducer in (space.choices[s.site] if s.keep > 0 else space.withdrawing) for s in policy.stages
    )
    stages = space.distributions.get("decoder_stages")
    most = stages.high if isinstance(stages, IntDistribution) else 0
    one_rule = len({s.reducer for s in decoder}) <= 1 and len(decoder) <= most
    if not (policy.stages and known and one_rule and len(encoder) <= 1 and len(sites["input"]) <= 1):
        return None
    cost = estimate(policy, space.full, space.workload).get(space.convention) * (1 + 1e-9)
    if not space.low <= cost <= space.high * (1 + 2e-9):
        return None
    params = {name: _middle(d) for name, d in space.distributions.items()}
    params |= {
        "budget": min(space.high, cost),
        "input": sites["input"][0].reducer if sites["input"] else NONE,
        "encoder": encoder[0].site if encoder else NONE,
        "decoder_stages": len(decoder),
        "withdraw": withdrawals[0].reducer if withdrawals else NONE,
        "positions": policy.positions,
    }
    params |= {f"{s.site}_reducer": s.reducer for s in (*encoder, *decoder)}
    for stage in policy.stages:
        if stage.keep > 0 or stage.params:
            place = variant_place(registry.get(stage.reducer), _own(stage))
            if place is None:
                return None
            params[f"{stage.site}_variant"] = place
    params = {name: value for name, value in params.items() if name in space.distributions}
    try:
        _place(space, policy, params)
    except _NotThere:
        return None
    return params if all(allowed(space.distributions[k], v) for k, v in params.items()) else None


def _place(space: Space, policy: Policy, params: dict[str, Any]) -> None:
    """Set the depths in the order the space asks for them, then the shares one stage after another."""
    wanted = {
        "withdraw_depth" if s.keep == 0 else "vision_depth" if s.site == "vision" else "": s.layer
        for s in policy.stages
    }
    decoder = [s.layer for s in policy.stages if s.site == "decoder" and s.keep > 0]
    wanted |= {f"depth_{i}": layer for i, layer in enumerate(decoder, 1)}

    def pick(name: str, options: Sequence[Any]) -> Any:
        if wanted.get(name) not in options:
            raise _NotThere
        params[name] = (list(options).index(wanted[name]) + 0.5) / len(options)
        return wanted[name]

    slots = space.layout(params, params["budget"], pick)
    if [(s.site, s.layer, s.reducer) for s in slots] != [(s.site, s.layer, s.reducer) for s in policy.stages]:
        raise _NotThere
    keeps = [0.0 if s.zero else LEAST for s in slots]
    for i in [i for i, s in enumerate(slots) if not s.zero][:-1]:
        low, high = space.between(slots, keeps, i, params, params["budget"])
        keep = min(high, max(low, policy.stages[i].keep))
        params[slots[i].share] = math.log(keep / low) / math.log(high / low) if high > low else 0.5
        keeps[i] = min(high, max(low, space.whole(keep)))


def _own(stage: Stage) -> dict[str, Any]:
    """The parameters of a stage that differ from the reducer's defaults."""
    defaults = {f.name: f.default for f in fields(registry.get(stage.reducer))}
    return {k: v for k, v in stage.params.items() if defaults.get(k) != v}


def _middle(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    if isinstance(distribution, IntDistribution):
        return (distribution.low + distribution.high) // 2
    return 0.5


def allowed(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a value lies in a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if value is None:
        return False
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    return bool(low <= value <= high)
