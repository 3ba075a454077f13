"""Limits on costs that no policy of a space can meet: refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from autotc.constraints import COSTS, Constraint
from autotc.cost import estimate
from autotc.errors import SpecError
from autotc.policy import Policy, Stage
from autotc.search._dimensions import LEAST
from autotc.search.space import Space


def refuse_out_of_reach(space: Space, constraints: Sequence[Constraint]) -> None:
    """Refuse limits that lie below the least, or above the most, that policies of a space can cost.

    The least is that of keeping one token an image from the first place on at which the space can cut, and of taking
    that one away as well where it can; the most is the uncompressed model's cost.

    Args:
        constraints: those on costs are looked at, as far as they are estimates.

    Raises:
        SpecError: one that no policy meets; the message says by how much.
    """
    limits = [c for c in constraints if c.on_cost]
    if not limits:
        return
    most = estimate(None, space.full, space.workload).as_dict()
    least = [estimate(p, space.full, space.workload).as_dict() for p in _smallest(space)]
    for c in limits:
        unit = COSTS[c.name].unit
        floor, ceiling = min(c.cost(costs) for costs in least), c.cost(most)
        if c.sense == "<=" and c.limit < floor:
            raise SpecError(
                f"limits: '{c}' can be met by no policy: with one visual token an image {c.name} is still "
                f"{floor:.4g} {unit}, {floor - c.limit:.4g} more. Allow more, or make the workload smaller"
            )
        if c.sense == ">=" and c.limit > ceiling:
            raise SpecError(
                f"limits: '{c}' can be met by no policy: that of the uncompressed model is {ceiling:.4g} {unit}, "
                f"{c.limit - ceiling:.4g} less"
            )


def _smallest(space: Space) -> list[Policy]:
    stages: list[Stage] = []
    for site in ("input", "vision", "projector", "decoder"):
        if space.choices[site]:
            layer = space.depths[site][0] if site in space.depths else None
            stages.append(Stage(site=site, layer=layer, reducer=space.choices[site][0], keep=LEAST))
    found = [stages[:1], [s for s in stages if s.site in ("input", "projector")], stages]
    if space.withdrawing:
        gone = Stage(site="decoder", layer=space.depths["decoder"][0], reducer=space.withdrawing[0], keep=0.0)
        found.append([*(s for s in stages if s.site != "decoder"), gone])
    return [Policy(model=space.model, stages=tuple(s)) for s in found if s]
