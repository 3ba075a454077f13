"""The whole study as plain data: who was compared, how far they agree, and which depth mapping is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from autotc.errors import SpecError
from autotc.leaderboard import Board
from autotc.transfer.depth import Depths, compare
from autotc.transfer.measure import BLOCK, MISSING, Measured
from autotc.transfer.ranks import Agreement, agreement, kendall, reliability, spearman, within
from autotc.transfer.sample import Sampled

FAMILIES = {"qwen2_5_vl": "Qwen", "llava": "LLaVA"}
Array = np.ndarray


@dataclass(frozen=True)
class Table:
    """Models that answered the same examples under the same policies.

    Args:
        models: in order of name.
        strata: (P,) budget of each policy.
        right: by model (P, n).
        images: (n,) image of each example.
    """

    models: tuple[Measured, ...]
    strata: Array
    right: tuple[Array, ...]
    images: Array


def table(models: Sequence[Measured], sampled: Sequence[Sampled]) -> Table:
    """Cut the outcomes of models down to the examples and policies that all of them have.

    Args:
        models: complete ones.
        sampled: the policies they ran.

    Raises:
        SpecError: the models answered different examples.
    """
    ordered = tuple(sorted(models, key=lambda m: m.model))
    n = min(m.examples for m in ordered) // BLOCK * BLOCK
    if any(not np.array_equal(m.image[:n], ordered[0].image[:n]) for m in ordered):
        raise SpecError("the models answered different examples; delete the files that are not of this study")
    strata = np.array([s.share for s in sampled])
    return Table(ordered, strata, tuple(m.correct[:, :n] for m in ordered), ordered[0].image[:n])


def groups(models: Sequence[Measured]) -> dict[str, list[tuple[int, int]]]:
    """Return the comparisons, in the order they are told, each as pairs of positions of models."""
    small = {f: [i for i, m in enumerate(models) if m.family == f and "-small" in m.model] for f in FAMILIES}
    shipped = {f: [i for i, m in enumerate(models) if m.model == f"{f}-tiny"] for f in FAMILIES}
    found = {f"seeds of {FAMILIES[f]}": list(combinations(small[f], 2)) for f in FAMILIES}
    for f in FAMILIES:
        found[f"shipped {FAMILIES[f]} and its small twins"] = [(a, b) for a in shipped[f] for b in small[f]]
    one, other = FAMILIES
    found["across families, small"] = [(a, b) for a in small[one] for b in small[other]]
    found["across families, shipped"] = [(a, b) for a in shipped[one] for b in shipped[other]]
    return {name: pairs for name, pairs in found.items() if pairs}


def study(
    found: Table,
    boards: Sequence[Board],
    depths: Sequence[Depths],
    trainings: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Return every figure of the study.

    Args:
        found: the outcomes.
        boards: leaderboards of the shipped proxies.
        depths: of the models in which depth was measured.
        trainings: what is known of the small models' trainings, by model.
    """
    compared = groups(found.models)
    result: dict[str, Any] = {
        "policies": len(found.strata),
        "examples": len(found.images),
        "images": len(np.unique(found.images)),
        "budgets": {f"{share:.4f}": int((found.strata == share).sum()) for share in np.unique(found.strata)},
        "models": [
            _model(found, i) | {"training": dict((trainings or {}).get(found.models[i].model, {}))}
            for i in range(len(found.models))
        ],
        "groups": {name: _group(found, pairs) for name, pairs in compared.items()},
        "leaderboard": _boards(boards),
        "depth": _depths(depths),
    }
    result["ceilings"] = {
        family: _ceiling(found, compared, result, family)
        for family, short in FAMILIES.items()
        if f"seeds of {short}" in compared
    }
    return result


def _model(found: Table, i: int) -> dict[str, Any]:
    model, n = found.models[i], len(found.images)
    scores = found.right[i].mean(1)
    return {
        "model": model.model,
        "family": model.family,
        "full": float(model.full[:n].mean()),
        "blind": float(model.blind[:n].mean()),
        "policies_from": float(scores.min()),
        "policies_to": float(scores.max()),
        "spread_equal_cost": float(
            np.sqrt(np.mean([scores[found.strata == s].var() for s in np.unique(found.strata)]))
        ),
        "reliability": reliability(found.right[i], found.strata, found.images, equal_cost=False),
        "reliability_equal_cost": reliability(found.right[i], found.strata, found.images, equal_cost=True),
    }


def _group(found: Table, pairs: list[tuple[int, int]]) -> dict[str, Any]:
    rules: dict[str, Agreement] = {
        name: agreement(found.right, pairs, found.strata, found.images, equal_cost=equal)
        for name, equal in (("equal_cost", True), ("all_costs", False))
    }
    scores = [right.mean(1) for right in found.right]
    by_pair = [
        {
            "models": [found.models[a].model, found.models[b].model],
            "spearman_equal_cost": within(found.strata)(scores[a], scores[b]),
            "spearman": spearman(scores[a], scores[b]),
            "kendall_equal_cost": within(found.strata, kendall)(scores[a], scores[b]),
            "kendall": kendall(scores[a], scores[b]),
            "kl_equal_cost": within(found.strata)(found.models[a].kl, found.models[b].kl),
        }
        for a, b in pairs
    ]
    by_budget = {
        f"{share:.4f}": float(
            np.mean(
                [
                    spearman(scores[a][found.strata == share], scores[b][found.strata == share])
                    for a, b in pairs
                ]
            )
        )
        for share in np.unique(found.strata)
    }
    return {
        **{name: asdict(rule) for name, rule in rules.items()},
        "kendall_equal_cost": float(np.mean([p["kendall_equal_cost"] for p in by_pair])),
        "kendall": float(np.mean([p["kendall"] for p in by_pair])),
        "kl_equal_cost": float(np.mean([p["kl_equal_cost"] for p in by_pair])),
        "by_budget": by_budget,
        "pairs": by_pair,
        "choice": choice(scores, pairs, found.strata),
    }


def choice(scores: Sequence[Array], pairs: Sequence[tuple[int, int]], strata: Array) -> dict[str, float]:
    """Return what a choice made on one model is worth on the other, in both directions, mean over budgets.

    Args:
        scores: by model (P,).
        pairs: of models.
        strata: (P,) budget of each policy.

    Returns:
        `loss`: quality of the other model's best policy of the budget less that of the one chosen; `beats`: share of
        the budget's other policies that the chosen one beats there (ties count half); `best_over_median`: what there
        was to gain. The other model's best is the best on the same examples, so the loss is an upper bound.
    """
    loss, beats, gain = [], [], []
    for a, b in pairs:
        for one, other in ((a, b), (b, a)):
            for share in np.unique(strata):
                mine, theirs = scores[one][strata == share], scores[other][strata == share]
                top = np.flatnonzero(mine == mine.max())
                for i in top:  # of equally good ones any may be taken
                    rest = np.delete(theirs, i)
                    loss.append((theirs.max() - theirs[i], 1 / len(top)))
                    beats.append(((rest < theirs[i]).mean() + (rest == theirs[i]).mean() / 2, 1 / len(top)))
                gain.append((theirs.max() - np.median(theirs), 1.0))
    return {
        name: float(np.average([v for v, _ in values], weights=[w for _, w in values]))
        for name, values in (("loss", loss), ("beats", beats), ("best_over_median", gain))
    }


def _ceiling(
    found: Table, compared: dict[str, list[tuple[int, int]]], result: dict[str, Any], family: str
) -> dict[str, Any]:
    name = f"seeds of {FAMILIES[family]}"
    group, used = result["groups"][name], sorted({i for pair in compared[name] for i in pair})
    rounded = {
        "value": group["equal_cost"]["value"],
        "low": group["equal_cost"]["interval"][0],
        "high": group["equal_cost"]["interval"][1],
        "overall": group["all_costs"]["value"],
        "corrected": group["equal_cost"]["corrected"],
    }
    return {
        **{k: None if v is None else round(v, 4) for k, v in rounded.items()},
        "n_policies": len(found.strata),
        "examples": len(found.images),
        "models": [found.models[i].model for i in used],
    }


def _boards(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Return the agreement of each two leaderboards on the recipes that both hold, by budget."""
    out = []
    for one, other in combinations(boards, 2):
        theirs = {(r.label, r.share): r.quality[0] for r in other.rows if r.policy is not None}
        both = [
            (r.share, r.quality[0], theirs[r.label, r.share])
            for r in one.rows
            if r.policy is not None and (r.label, r.share) in theirs
        ]
        shares, a, b = (np.array(column) for column in zip(*both, strict=True))
        out.append(
            {
                "models": [one.on, other.on],
                "rows": len(both),
                "spearman": spearman(a, b),
                "spearman_equal_cost": within(shares)(a, b),
                "kendall_equal_cost": within(shares, kendall)(a, b),
                "by_budget": {
                    f"{share:.4f}": spearman(a[shares == share], b[shares == share])
                    for share in np.unique(shares)
                },
            }
        )
    return out


def _depths(depths: Sequence[Depths]) -> dict[str, Any]:
    ordered = sorted(depths, key=lambda d: d.model)
    return {
        "models": [
            {
                "model": d.model,
                "layers": d.layers,
                "attention": [round(float(v), 4) for v in d.attention],
                "withdrawal": [round(float(v), 4) for v in d.withdrawal],
            }
            for d in ordered
        ],
        "pairs": [
            {
                "models": [a.model, b.model],
                "same_family": a.family == b.family,
                "rules": compare(a, b),
            }
            for a in ordered
            for b in ordered
            if a is not b and a.layers <= b.layers
        ],
    }


def complete(model: Measured) -> bool:
    """Whether a model ran every policy on at least one block of examples."""
    return bool((model.correct[:, :BLOCK] != MISSING).all())
