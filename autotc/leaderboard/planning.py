"""Which policies a leaderboard compares: every method and recipe, scaled to the exact cost of each budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autotc.anatomy import Anatomy
from autotc.cost import estimate, placed_preset, solve_keep
from autotc.errors import PolicyError, UnsupportedError
from autotc.leaderboard.board import Entry
from autotc.policy import ModelRef, Policy, Stage, map_depth
from autotc.reducer import Preset, Reducer, reducers
from autotc.workload import Workload

SHARES = (1 / 3, 2 / 9, 1 / 9)  # of an image's tokens: 192, 128 and 64 of 576
BASELINES = ("uncompressed", "random", "downsample", "uniform")


def plan(
    full: Anatomy, evaluated: Anatomy, workload: Workload, shares: Sequence[float] = SHARES
) -> tuple[list[Entry], dict[float, float], list[tuple[str, float, str]]]:
    """Return what to measure, the exact cost of each budget, and what fits in nowhere with the reason.

    Args:
        full: the model whose costs count.
        evaluated: the model that runs; depths must exist in both.
        workload: the mix of requests.
        shares: of the tokens, one a budget.
    """
    entries, left_out = [Entry("uncompressed", "", 1.0, None)], []
    limits: dict[float, float] = {}
    model = ModelRef(
        family=full.family, id=full.id, decoder_layers=full.decoder.layers, vision_blocks=full.vision.blocks
    )
    for share in (round(share, 6) for share in shares):
        plain = Policy(model=model, stages=(Stage(site="projector", reducer="random", keep=share),))
        limits[share] = estimate(plain, full, workload).tflops_exact
        seen: set[str] = set()
        for cls in _classes():
            placed = False
            for preset in (*cls.presets, None):
                if preset is None and placed:
                    continue
                label = preset.name if preset else f"{cls.name}, one cut" if cls.presets else cls.name
                try:
                    policy = _placed(cls, preset, full, evaluated, workload, limits[share], model)
                except (PolicyError, UnsupportedError) as error:
                    policy = str(error)
                if isinstance(policy, str):
                    left_out.append((label, share, policy))
                    continue
                placed = True
                if policy.id not in seen:
                    seen.add(policy.id)
                    entries.append(Entry(label, cls.name, share, policy))
    return entries, limits, left_out


def _classes() -> list[type[Reducer]]:
    """Random tokens first, then the other baselines: what others are compared with is measured before them."""
    order = ("random", *BASELINES)
    return sorted(
        reducers.all(), key=lambda cls: (order.index(cls.name) if cls.name in order else len(order), cls.name)
    )


def _placed(
    cls: type[Reducer],
    preset: Preset | None,
    full: Anatomy,
    evaluated: Anatomy,
    workload: Workload,
    limit: float,
    model: ModelRef,
) -> Policy | str:
    """Return the policy at the budget, or why there is none."""
    from autotc.apply import check

    if preset is not None:
        policy = placed_preset(cls, preset, full, evaluated, workload, limit, "exact")
        if policy is None:
            whatever = placed_preset(cls, preset, full, evaluated, workload, math.inf, "exact")
            return (
                "its stages fall together, or out of the model, on so few layers"
                if whatever is None
                else "it costs more than this budget whatever it keeps"
            )
    else:
        site = next(s for s in ("projector", "decoder", "vision", "input") if s in cls.sites)
        layers = {"decoder": (2, evaluated.decoder.layers), "vision": (1, 2)}
        depth = {"decoder": full.decoder.layers, "vision": full.vision.blocks}
        layer = map_depth(*layers[site], depth[site]) if site in layers else None
        stage = Stage(site=site, layer=layer, reducer=cls.name, keep=0.0 if cls.withdraws else 0.5)
        policy = Policy(model=model, stages=(stage,)).for_model(evaluated).for_model(full)
        if not cls.withdraws:
            keep = solve_keep(policy, 0, full, workload, limit, "exact")
            if keep is None:
                return "one token still costs more"
            stage = policy.stages[0].model_copy(update={"keep": keep})
            policy = policy.model_copy(update={"stages": (stage,)})
    if estimate(policy, full, workload).tflops_exact > limit * (1 + 1e-9):
        return "it costs more than this budget whatever it keeps"
    check(policy, full)
    check(policy.for_model(evaluated), evaluated)
    return policy
