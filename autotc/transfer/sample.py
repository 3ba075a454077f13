"""Policies to rank models by: spread over sites, reducers, depths and budgets, and the same for every family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, IntDistribution

from autotc.anatomy import Anatomy
from autotc.cost import estimate, placed_preset, solve_keep
from autotc.errors import AutotcError
from autotc.policy import ModelRef, Policy, Stage, map_depth
from autotc.reducer import reducers
from autotc.search.space import NONE, Space
from autotc.workload import Workload

SHARES = (1 / 2, 1 / 3, 2 / 9, 1 / 9, 1 / 16)  # of the tokens; each names a budget, as on the leaderboard
# Shapes of policies and how many of each among forty of one budget.
KINDS = {"projector": 8, "decoder": 9, "decoders": 6, "projector+decoder": 6, "vision": 6, "preset": 5}
# Cuts inside the language model alone cannot reach the smallest budgets, and few recipes have many cuts.
FALLBACK = {
    "projector": "projector",
    "decoder": "projector+decoder",
    "decoders": "projector+decoder",
    "projector+decoder": "projector",
    "vision": "projector",
    "preset": "projector",
}
LEAST_COST = 0.97  # of the budget: policies of one budget must cost the same
TRIES = 60  # for one policy


@dataclass(frozen=True)
class Family:
    """One family of the comparison.

    Args:
        full: the model whose costs count.
        evaluated: the models that run; all have the same depths.
    """

    full: Anatomy
    evaluated: tuple[Anatomy, ...]


@dataclass(frozen=True)
class Sampled:
    """A policy in the words of each family.

    Args:
        share: of the tokens, which names the budget.
        kind: its shape, one of `KINDS`.
        policies: by family, for its full model; all cost as much as the budget there.
    """

    share: float
    kind: str
    policies: dict[str, Policy]


def budget_of(family: Family, share: float, workload: Workload) -> float:
    """Return what random tokens behind the projector cost, TFLOP exact, where a share of them stays."""
    stage = Stage(site="projector", reducer="random", keep=round(share, 6))
    policy = Policy(model=_model(family.full), stages=(stage,))
    return estimate(policy, family.full, workload).tflops_exact


def sample_policies(
    families: Sequence[Family], workload: Workload, n: int = 200, seed: int = 0
) -> list[Sampled]:
    """Draw policies that every family can run, as many at each budget; a pure function of its arguments.

    They are drawn in the space of the first family's search, with every reducer about as often as another of its
    site, together with published recipes. For the other families depths are translated by the share of the model
    that lies before them, and the last keep is solved anew, so that the policy costs the budget there too.

    Args:
        families: the first one's space is drawn from.
        workload: the mix of requests that costs are for.
        n: how many, a multiple of the budgets.
        seed: of the draw.

    Raises:
        ValueError: n cannot be divided by the number of budgets, or a shape of policy fits no budget.
    """
    if n % len(SHARES):
        raise ValueError(f"n: {n} is not a multiple of {len(SHARES)}, the number of budgets")
    rng = np.random.default_rng(seed)
    first = families[0]
    space = Space(first.full, first.evaluated[0], workload, None, "exact")
    names = {site: _endless(options, rng) for site, options in space.choices.items()}
    found: list[Sampled] = []
    seen: set[str] = set()
    for share in SHARES:
        limits = [budget_of(family, share, workload) for family in families]
        recipes = _recipes(first, workload, limits[0], rng)
        for kind in _kinds(n // len(SHARES)):
            for shape in (kind, FALLBACK[kind]):
                sampled = next(
                    (
                        s
                        for _ in range(TRIES)
                        if (s := _try(space, shape, families, workload, limits, names, recipes, rng))
                        and s[0].id not in seen
                    ),
                    None,
                )
                if sampled is not None:
                    break
            else:
                raise ValueError(f"no policy of the shape {kind} costs what {share:.3f} of the tokens do")
            seen.add(sampled[0].id)
            by_family = {f.full.family: p for f, p in zip(families, sampled, strict=True)}
            found.append(Sampled(share, shape, by_family))
    return found


def _kinds(n: int) -> list[str]:
    """Return n shapes in the proportions of `KINDS`, the largest remainders rounded up."""
    exact = {kind: n * part / sum(KINDS.values()) for kind, part in KINDS.items()}
    counts = {kind: int(value) for kind, value in exact.items()}
    for kind in sorted(exact, key=lambda kind: counts[kind] - exact[kind])[: n - sum(counts.values())]:
        counts[kind] += 1
    return [kind for kind, count in counts.items() for _ in range(count)]


def _endless(options: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """Yield all options in random order, again and again."""
    while True:
        yield from (options[i] for i in rng.permutation(len(options)))


def _recipes(family: Family, workload: Workload, limit: float, rng: np.random.Generator) -> Iterator[Policy]:
    """Yield published recipes scaled to a budget, in random order."""
    known = [(cls, preset) for cls in reducers.all() for preset in cls.presets]
    for i in rng.permutation(len(known)):
        cls, preset = known[i]
        try:
            policy = placed_preset(cls, preset, family.full, family.evaluated[0], workload, limit, "exact")
        except AutotcError:
            continue  # the recipe is for another family
        if policy is not None:
            yield policy


def _try(
    space: Space,
    shape: str,
    families: Sequence[Family],
    workload: Workload,
    limits: Sequence[float],
    names: dict[str, Iterator[str]],
    recipes: Iterator[Policy],
    rng: np.random.Generator,
) -> list[Policy] | None:
    """Return the next policy of a shape in the words of every family; None where it does not fit."""
    policy = next(recipes, None) if shape == "preset" else _draw(space, shape, limits[0], names, rng)
    return None if policy is None else _everywhere(policy, families, workload, limits)


def _draw(
    space: Space, kind: str, limit: float, names: dict[str, Iterator[str]], rng: np.random.Generator
) -> Policy | None:
    """Draw a point of the space with the sites of a shape; None where its policy has others."""
    params: dict[str, Any] = {}
    for name, distribution in space.distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            params[name] = distribution.choices[rng.integers(len(distribution.choices))]
        elif isinstance(distribution, IntDistribution):
            params[name] = int(rng.integers(distribution.low, distribution.high + 1))
        else:
            params[name] = float(rng.random())
    sites = [site for site in ("vision", "projector", "decoder") if site in kind]
    stages = {"decoder": 1, "decoders": int(rng.integers(2, 4)), "projector+decoder": 1}.get(kind, 0)
    encoder = next((site for site in sites if site != "decoder"), NONE)
    withdraw = rng.random() < 0.25 and bool(stages)
    params |= {
        "budget": limit,
        "input": NONE,
        "encoder_sites": encoder,
        "decoder_stages": stages,
        "vision_stages": 1,
    }
    params["withdraw"] = space.withdrawing[0] if withdraw and space.withdrawing else NONE
    params |= {f"{site}_reducer": next(names[site]) for site in sites}
    policy = space.decode(params).policy
    got = [stage for stage in policy.stages if stage.keep > 0]
    if {stage.site for stage in got} != set(sites) or len(got) - (encoder != NONE) != stages:
        return None
    return policy


def _everywhere(
    policy: Policy, families: Sequence[Family], workload: Workload, limits: Sequence[float]
) -> list[Policy] | None:
    """Return the policy in the words of every family; None where one of them cannot run it at the budget."""
    found = []
    for family, limit in zip(families, limits, strict=True):
        try:
            moved = policy if family is families[0] else translate(policy, families[0], family)
            moved = _solved(moved, family, workload, limit)
            if not _runs(moved, family):
                return None
        except AutotcError:
            return None
        if (
            not LEAST_COST * limit
            <= estimate(moved, family.full, workload).tflops_exact
            <= limit * (1 + 1e-9)
        ):
            return None
        found.append(moved)
    return found


def translate(policy: Policy, here: Family, there: Family) -> Policy:
    """Return a policy with its depths at the same share of another family's models.

    Depths go from proxy to proxy, since only theirs can be measured; in the tower the share is of the blocks that run.
    """
    mine, other = here.evaluated[0], there.evaluated[0]
    small = policy.for_model(mine)
    depths = {
        "decoder": (mine.decoder.layers, other.decoder.layers),
        "vision": (mine.vision.blocks_used, other.vision.blocks_used),
    }
    stages = tuple(
        s if s.layer is None else s.model_copy(update={"layer": map_depth(s.layer, *depths[s.site])})
        for s in small.stages
    )
    moved = Policy(model=_model(other), positions=policy.positions, stages=stages)
    return moved.for_model(there.full)


def _solved(policy: Policy, family: Family, workload: Workload, limit: float) -> Policy:
    """Return the policy with the last keep that is not 0 chosen to cost the budget."""
    last = max(i for i, stage in enumerate(policy.stages) if stage.keep > 0)
    keep = solve_keep(policy, last, family.full, workload, limit, "exact")
    if keep is None:
        return policy
    stages = list(policy.stages)
    stages[last] = stages[last].model_copy(update={"keep": keep})
    return policy.model_copy(update={"stages": tuple(stages)})


def _runs(policy: Policy, family: Family) -> bool:
    """Whether all models of a family can run a policy, every stage of which reduces something."""
    from autotc.apply import check

    keeps = [1.0, *(stage.keep for stage in policy.stages)]
    if any(after >= before for before, after in pairwise(keeps)):
        return False
    check(policy, family.full)
    for evaluated in family.evaluated:
        there = policy.for_model(evaluated)
        check(there, evaluated)
        if there.for_model(family.full).stages != policy.stages:
            return False
    return True


def _model(anatomy: Anatomy) -> ModelRef:
    return ModelRef(
        family=anatomy.family,
        id=anatomy.id,
        decoder_layers=anatomy.decoder.layers,
        vision_blocks=anatomy.vision.blocks,
    )
