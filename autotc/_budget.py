"""Policies made to a budget: the least a space can cost, one keep solved for, published recipes scaled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from autotc._charge import ANY, GIGA, checked, free, reducer_work, stages_of, total_tflops
from autotc._flops import layer_flops, literature_flops
from autotc.anatomy import Anatomy
from autotc.errors import PolicyError
from autotc.policy import SITES, ModelRef, Policy, Stage, map_depth
from autotc.workload import Workload

if TYPE_CHECKING:
    from autotc.reducer import Preset, Reducer

STEP = 1e-6  # keeps are decimals of this size; policy ids round to it


class Floor(NamedTuple):
    """The least a space of policies can cost, and what sets it in one phrase."""

    tflops: float
    reason: str


def floor_cost(
    anatomy: Anatomy,
    workload: Workload,
    convention: str = "literature",
    sites: Sequence[str] = ("input", "vision", "projector", "decoder"),
    withdraw: bool = True,
) -> Floor:
    """Return the least that policies with these sites can cost: one token an image from the earliest cut on.

    Args:
        anatomy: the model.
        workload: the mix of requests.
        convention: which count.
        sites: the sites the space may use; those that this model has not are left out.
        withdraw: whether the decoder stage may take all tokens away.
    """
    allowed = [site for site in SITES if site in sites and site != "cache"]
    stages = tuple(
        Stage(
            site=site,  # type: ignore[arg-type]
            layer=1 if site in ("vision", "decoder") else None,
            reducer=ANY,
            keep=0.0 if site == "decoder" and withdraw else STEP,
        )
        for site in allowed
        if (site != "vision" or anatomy.vision.blocks_used > 1)
        and (site != "input" or not anatomy.image.pinpoints)  # tiles have one size
    )
    tflops = total_tflops(stages, anatomy, workload, convention, free)
    before = {"input": "", "vision": "tower block 0", "projector": "the tower", "decoder": "decoder layer 0"}
    first = stages[0].site if stages else None
    if convention == "literature" and first not in (None, "decoder"):
        reason = "one visual token an image in the first decoder layer"
    elif first is None:
        reason = "no site to cut at"
    elif first == "input":
        reason = "one visual token an image, text and decode"
    else:
        reason = f"{before[first]} sees every visual token before a cut at {first!r}"
    return Floor(tflops, reason)


def solve_keep(
    policy: Policy,
    index: int,
    anatomy: Anatomy,
    workload: Workload,
    max_tflops: float,
    convention: str = "literature",
) -> float | None:
    """Return the largest keep of one stage with which the whole policy costs at most `max_tflops`.

    It lies between the keep of the stage after it (or one token) and that of the stage before it (or 1), so
    the policy stays valid. With one image size it is a whole number of tokens: one token more would cost more
    than the limit, or that bound is reached.

    Returns:
        The keep, or None when the limit cannot be met by this stage alone.

    Raises:
        ValueError: the stage is a withdrawal.
    """
    stages = list(stages_of(policy, anatomy))
    if stages[index].keep == 0:
        raise ValueError(f"stages[{index}] takes every token away: it has no keep to solve for")
    high = stages[index - 1].keep if index else 1.0
    low = max(stages[index + 1].keep if index + 1 < len(stages) else 0.0, STEP)
    sizes = {anatomy.visual_tokens(r.width, r.height, r.images) for r in workload.requests}
    charge = reducer_work(anatomy)
    if len(sizes) == 1:
        n = sizes.pop()
        unit, first, last = 1 / n, Stage.tokens(_with_keep(stages[index], low), n), math.floor(high * n + 0.5)
    else:
        unit, first, last = STEP, max(1, round(low / STEP)), round(high / STEP)

    def keep(i: int) -> float:
        return min(high, max(low, round(i * unit, 6)))

    def cost(i: int) -> float:
        stages[index] = _with_keep(stages[index], keep(i))
        return total_tflops(stages, anatomy, workload, convention, charge)

    best = _largest(cost, max_tflops, first, max(first, last))
    return None if best is None else keep(best)


def preset_policy(
    reducer: type[Reducer],
    preset: Preset,
    anatomy: Anatomy,
    workload: Workload,
    max_tflops: float | None,
    convention: str = "literature",
    positions: Sequence[str] | None = None,
) -> Policy | None:
    """Return a published recipe scaled to a budget: its keeps times the largest factor that fits.

    Depths are mapped with `map_depth` from the published ones, keeps never pass 1, a withdrawal stays one. At
    the cost of the published counts those come back. The next larger factor, a token more at one stage, would
    cost more than the budget, unless everything is kept already.

    Args:
        reducer: the method.
        preset: one of its recipes.
        anatomy: the model.
        workload: the mix of requests.
        max_tflops: the budget, in TFLOP per 1,000 requests; None for the published counts.
        convention: how the budget is counted.
        positions: the position conventions the family supports; by default asked from its adapter.

    Returns:
        The policy, or None when the recipe cannot be placed in this model or cannot meet the budget.
    """
    published = preset.stages(anatomy)
    depths = {"decoder": anatomy.decoder.layers, "vision": anatomy.vision.blocks}
    layers = [
        None if s.layer is None else map_depth(s.layer[0], s.layer[1], depths[s.site]) for s in published
    ]
    places = [(SITES.index(s.site), layer or 0) for s, layer in zip(published, layers, strict=True)]
    too_late = (SITES.index("vision"), anatomy.vision.blocks_used)
    if not published or any(b <= a for a, b in itertools.pairwise(places)):
        return None
    if any(place[0] == too_late[0] and place >= too_late for place in places):
        return None
    if anatomy.image.pinpoints and any(s.site == "input" for s in published):  # tiles have one size
        return None
    known = _family_positions(anatomy.family) if positions is None else tuple(positions)
    policy = Policy(
        model=ModelRef(
            family=anatomy.family,
            id=anatomy.id,
            decoder_layers=anatomy.decoder.layers,
            vision_blocks=anatomy.vision.blocks,
        ),
        positions=preset.positions if preset.positions in known else "original",
        stages=tuple(
            Stage(
                site=s.site,
                layer=layer,
                reducer=s.reducer or reducer.name,
                keep=s.keep,
                params=dict(s.params),
            )
            for s, layer in zip(published, layers, strict=True)
        ),
    )
    return policy if max_tflops is None else scale_policy(policy, anatomy, workload, max_tflops, convention)


def placed_preset(
    reducer: type[Reducer],
    preset: Preset,
    full: Anatomy,
    evaluated: Anatomy,
    workload: Workload,
    max_tflops: float,
    convention: str = "literature",
    positions: Sequence[str] | None = None,
) -> Policy | None:
    """Return a published recipe for the full model whose depths the evaluated one has too, scaled to a budget.

    Args:
        full: the model whose costs count.
        evaluated: the model that runs.
        reducer, preset, workload, max_tflops, convention, positions: as for `preset_policy`.

    Returns:
        The policy, or None when the recipe cannot be placed, cannot meet the budget, or two of its stages fall on one
        layer of the evaluated model.
    """
    policy = preset_policy(reducer, preset, full, workload, max_tflops, convention, positions)
    if policy is None:
        return None
    try:
        moved = policy.for_model(evaluated).for_model(full)
    except PolicyError:
        return None
    if moved.stages == policy.stages:
        return policy
    return scale_policy(moved, full, workload, max_tflops, convention)


def scale_policy(
    policy: Policy,
    anatomy: Anatomy,
    workload: Workload,
    max_tflops: float,
    convention: str = "literature",
) -> Policy | None:
    """Return the policy with its keeps times the largest factor that costs at most `max_tflops`.

    Keeps never pass 1 and never become 0; a withdrawal stays one.

    Returns:
        The policy, or None when even the smallest factor costs more.
    """
    first = stages_of(policy, anatomy)
    charge = reducer_work(anatomy)
    positive = [s.keep for s in first if s.keep > 0] or [1.0]
    unit = STEP / max(positive)

    def scaled(i: int) -> tuple[Stage, ...]:
        keeps = (max(STEP, round(min(1.0, s.keep * i * unit), 6)) if s.keep else 0.0 for s in first)
        return tuple(map(_with_keep, first, keeps))

    def cost(i: int) -> float:
        return total_tflops(scaled(i), anatomy, workload, convention, charge)

    best = _largest(cost, max_tflops, 1, math.ceil(1 / (min(positive) * unit)))
    if best is None:
        return None
    stages = scaled(best)
    sizes = [anatomy.visual_tokens(r.width, r.height, r.images) for r in workload.requests]
    if all(s.tokens(n) == f.tokens(n) for s, f in zip(stages, first, strict=True) for n in sizes):
        stages = first  # the given fractions read better than equal ones with other decimals
    return policy.model_copy(update={"stages": stages})


def layer_tflops(anatomy: Anatomy, workload: Workload, tokens: float, convention: str) -> float:
    """Return the TFLOP per 1,000 requests of one decoder layer that sees `tokens` visual tokens an image.

    Smooth in `tokens`; a search splits a budget over depths with it before `solve_keep` sets whole tokens.
    """
    total = 0.0
    for request, weight in zip(workload.requests, workload.weights, strict=True):
        n = request.images * min(tokens, anatomy.visual_tokens(request.width, request.height, request.images))
        if checked(convention) == "literature":
            total += weight * literature_flops(anatomy, [n])
        else:
            rows = n + request.prompt_tokens
            total += weight * layer_flops(anatomy, rows, rows)
    return total / GIGA


def _family_positions(family: str) -> tuple[str, ...]:
    """Return the position conventions of a family; "original" where it is not one of ours."""
    from autotc.adapter import adapters

    return tuple(adapters.get(family).positions) if family in adapters.names() else ("original",)


def _with_keep(stage: Stage, keep: float) -> Stage:
    return stage if stage.keep == keep else stage.model_copy(update={"keep": keep})


def _largest(cost: Callable[[int], float], limit: float, low: int, high: int) -> int | None:
    """Return the largest whole number in low..high that costs at most the limit, None where none does.

    What fits, fits for every smaller one too. Costs are nearly linear, so most steps go where a straight line between
    the ends meets the limit; every third halves what is left, whatever the curve.
    """
    least = cost(low)
    if least > limit:
        return None
    most = cost(high)
    if most <= limit:
        return high
    step = 0
    while high - low > 1:
        step += 1
        share = (limit - least) / (most - least) if step % 3 else 0.5
        middle = min(high - 1, low + max(1, int(share * (high - low))))
        value = cost(middle)
        if value <= limit:
            low, least = middle, value
        else:
            high, most = middle, value
    return low
