"""From a policy back to the point of the space that decodes to it: a search can start from presets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from autotc.cost import estimate
from autotc.policy import LAYERED, Policy, Stage
from autotc.reducer import reducers as registry
from autotc.search._dimensions import LEAST, NONE, variant_place
from autotc.search.space import Space

_WITHDRAW = "withdraw"  # where no token is left


class _NotThere(Exception):
    """The space has no such depth under this budget."""


def encode(space: Space, policy: Policy) -> dict[str, Any] | None:
    """Return the point that decodes to a policy, to within a token a stage; None where the space has none."""
    sites: dict[str, list[Stage]] = {site: [] for site in (*space.choices, _WITHDRAW)}
    for stage in policy.stages:
        sites[stage.site if stage.keep > 0 else _WITHDRAW].append(stage)
    known = {**space.choices, _WITHDRAW: space.withdrawing}
    for site, stages in sites.items():
        alike = {(s.reducer, tuple(sorted(_own(s).items()))) for s in stages}
        if (
            len(stages) > _most(space, site)
            or len(alike) > 1
            or any(s.reducer not in known[site] for s in stages)
        ):
            return None
    cost = estimate(policy, space.full, space.workload).get(space.convention) * (1 + 1e-9)
    if not (policy.stages and space.low <= cost <= space.high * (1 + 2e-9)):
        return None
    params = {name: _middle(d) for name, d in space.distributions.items()}
    params |= {
        "budget": min(space.high, cost),
        "input": sites["input"][0].reducer if sites["input"] else NONE,
        "encoder_sites": "+".join(site for site in ("vision", "projector") if sites[site]) or NONE,
        "decoder_stages": len(sites["decoder"]),
        "withdraw": sites[_WITHDRAW][0].reducer if sites[_WITHDRAW] else NONE,
        "positions": policy.positions,
    }
    if sites["vision"]:
        params["vision_stages"] = len(sites["vision"])
    for stage in policy.stages:
        if stage.keep > 0:
            params[f"{stage.site}_reducer"] = stage.reducer
        if stage.keep > 0 or stage.params:
            place = variant_place(registry.get(stage.reducer), _own(stage), space.full)
            if place is None:
                return None
            params[f"{stage.site}_variant"] = place
    params = {name: value for name, value in params.items() if name in space.distributions}
    try:
        _place(space, policy, params)
    except _NotThere:
        return None
    return params if all(allowed(space.distributions[k], v) for k, v in params.items()) else None


def _most(space: Space, site: str) -> int:
    """Stages that the space has at a site."""
    if site not in LAYERED:
        return 1
    return sum(name.startswith(f"{site}_depth_") for name in space.distributions)


def _place(space: Space, policy: Policy, params: dict[str, Any]) -> None:
    """Set the depths in the order the space asks for them, then the shares one stage after another."""
    wanted: dict[str, int | None] = {}
    for site in LAYERED:
        cuts = [s.layer for s in policy.stages if s.site == site and s.keep > 0]
        wanted |= {f"{site}_depth_{i}": layer for i, layer in enumerate(cuts, 1)}
    leaves = [s.layer for s in policy.stages if s.keep == 0]
    wanted["withdraw_depth"] = leaves[0] if leaves else None

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
