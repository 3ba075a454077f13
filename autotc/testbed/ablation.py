"""What each freedom of a policy is worth: searches within ever larger parts of the space, their picks run for real.

The steps: a published recipe as it is, with its keeps and depths tuned, any one method at one place, at any depth, at
several depths, several methods mixed, methods' own parameters, and the parts of methods recombined. Each searches with
the same strategy and as many evaluations on the test-bed, from the published recipes that lie in its part. At each
budget a short list of what it finds is run on selection examples, which neither the test-bed nor the search has seen,
and the best of these on held-out ones, next to smaller images of the same cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotc._outcomes import Outcomes, shared
from autotc.policy import Policy
from autotc.reducer import reducers as registry
from autotc.search._dimensions import NONE
from autotc.search._inverse import encode
from autotc.search.space import Proposal, Space
from autotc.search.strategies.base import Seen
from autotc.search.strategies.default import Informed
from autotc.statistics import Interval, paired
from autotc.statistics import share as share_of
from autotc.task import Split
from autotc.testbed.bed import Bed

BASELINE = "smaller images"
FIXED = (
    BASELINE,
    "best recipe as published",
)  # steps without a search; the first one after them tunes recipes
LISTED = 8  # policies run on selection examples for each step and budget
MISSES = (
    4  # proposals outside of a step's part of the space, or tried before, for each new one inside, at most
)
DEFAULTS = 0.25  # place of a reducer's default parameters
Point = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One part of the space.

    Args:
        name: as printed.
        restrict: moves a point into it, as far as a point alone says.
        holds: whether a policy lies in it.
    """

    name: str
    restrict: Callable[[Point], Point]
    holds: Callable[[Policy], bool]


class Part:
    """A space whose points are moved into a part of it before they are decoded."""

    def __init__(self, space: Space, restrict: Callable[[Point], Point]) -> None:
        self._space, self._restrict = space, restrict

    def __getattr__(self, name: str) -> Any:
        return getattr(self._space, name)

    def decode(self, params: Mapping[str, Any]) -> Proposal:
        """See `Space.decode`."""
        return self._space.decode(self._restrict(dict(params)))


def steps(space: Space, recipes: Sequence[Policy]) -> tuple[Step, ...]:
    """Return the steps, smallest part first.

    Args:
        space: the whole.
        recipes: published ones.
    """
    points = [p for p in (encode(space, policy) for policy in recipes) if p is not None]
    layouts = {_layout(policy) for policy in recipes}

    def tuned(point: Point) -> Point:
        return _as_recipe(point, points)

    def one_place(point: Point) -> Point:
        return _default(_single(point) | {"decoder_depth_1": 0.0, "vision_depth_1": 0.5}, point)

    return (
        Step("recipe, keeps and depths tuned", tuned, lambda p: _layout(p) in layouts),
        Step("any one method, one place", one_place, _one),
        Step("+ position", lambda p: _default(_single(p), p), _one),
        Step("+ several depths", lambda p: _default(_same(p, space), p), _one_method),
        Step("+ several methods", lambda p: _default(p, p), _plain),
        Step("+ their parameters", lambda p: p, _published),
        Step("+ recombined parts", lambda p: p, lambda p: bool(p.stages)),
    )


def _default(changed: Point, point: Point) -> Point:
    return {**point, **changed, **{k: DEFAULTS for k in point if k.endswith("_variant")}}


def _single(point: Point) -> Point:
    sites = _one_encoder(point)
    fixed = {"input": NONE, "withdraw": NONE, "encoder_sites": sites, "vision_stages": 1}
    return point | _there(point, fixed | {"decoder_stages": 0 if sites != NONE else 1})


def _same(point: Point, space: Space) -> Point:
    """One method at all of its stages: the encoder's goes on in the language model where it can."""
    site = _one_encoder(point)
    fixed: Point = {"input": NONE, "withdraw": NONE, "encoder_sites": site}
    if site != NONE:
        name = point.get(f"{site}_reducer", space.choices[site][0])
        fixed |= {"decoder_reducer": name} if name in space.choices["decoder"] else {"decoder_stages": 0}
    return point | _there(point, fixed)


def _one_encoder(point: Point) -> str:
    """Both of them come down to the tower."""
    return str(point.get("encoder_sites", NONE)).split("+")[0]


def _there(point: Point, fixed: Point) -> Point:
    return {k: v for k, v in fixed.items() if k in point}


def _as_recipe(point: Point, recipes: Sequence[Point]) -> Point:
    """Take over what the most similar recipe chooses; its keeps and depths stay those of the point."""
    chosen = [k for k, v in point.items() if isinstance(v, str | int)] + [
        k for k in point if k.endswith("_variant")
    ]
    alike = np.array([sum(point[k] == r[k] for k in chosen) for r in recipes])
    ties = np.flatnonzero(alike == alike.max())
    taken = recipes[ties[int(float(point.get("share_projector", 0.0)) * len(ties)) % len(ties)]]
    return point | {k: taken[k] for k in chosen}


def _layout(policy: Policy) -> tuple[Any, ...]:
    stages = tuple((s.site, s.reducer, tuple(sorted(s.params.items()))) for s in policy.stages)
    return (policy.positions, *stages)


def _one(policy: Policy) -> bool:
    return len(policy.stages) == 1 and _plain(policy)


def _one_method(policy: Policy) -> bool:
    return len({s.reducer for s in policy.stages}) == 1 and _plain(policy)


def _plain(policy: Policy) -> bool:
    return _published(policy) and not any(s.params for s in policy.stages)


def _published(policy: Policy) -> bool:
    return bool(policy.stages) and not any(registry.get(s.reducer).crossed for s in policy.stages)


@dataclass(frozen=True)
class Tried:
    """A policy that a search evaluated, with its answers on the test-bed."""

    policy: Policy
    cost: float
    correct: np.ndarray


def search_part(bed: Bed, step: Step, seed: int, evaluations: int) -> list[Tried]:
    """Return what the default strategy tries within a part of the space, every trial on all search examples.

    It starts from the published recipes that lie there, which are measured already and cost nothing.
    """
    part = Part(bed.space, step.restrict)
    chooser = Informed(part, seed)  # type: ignore[arg-type]
    recipes = [bed.policies[i] for i in np.flatnonzero(bed.presets)]
    starts = [p for q in recipes if step.holds(q) and (p := encode(bed.space, q))]
    found: dict[tuple[object, ...], Tried] = {}
    history: list[Seen] = []
    most, free, missed = evaluations // len(bed.parts["search"]), 0, 0
    while len(found) - free < most and missed < MISSES * most:
        number = len(history)
        start = starts[number] if number < len(starts) else None
        proposed = chooser.propose(history, number, start)
        policy = part.decode(proposed.params).policy
        if not step.holds(policy):
            history.append(Seen(number, proposed, 0.0, 0.0, {"step": 1.0}))
            missed += 1
            continue
        key = bed.identity(policy)
        if key not in found:
            answers = bed.answers(policy)
            found[key] = Tried(policy, answers.cost, answers.correct)
            free += start is not None
        else:
            missed += 1
        one = found[key]
        history.append(Seen(number, proposed, float(one.correct[bed.parts["search"]].mean()), one.cost))
    return list(found.values())


def shortlist(bed: Bed, tried: Sequence[Tried], limit: float, n: int = 1) -> list[Tried]:
    """Return the `n` best within a cost by what the test-bed says of the search and the selection examples."""
    index = np.concatenate([bed.parts["search"], bed.parts["selection"]])
    within = {bed.identity(t.policy): t for t in tried if t.cost <= limit * (1 + 1e-9)}
    return sorted(within.values(), key=lambda t: (-float(t.correct[index].mean()), t.cost))[:n]


def recipes(bed: Bed, images: bool = False) -> list[Tried]:
    """Return the published recipes of a test-bed, or the smaller images among them."""
    found = []
    for i in np.flatnonzero(bed.presets):
        resized = all(s.reducer == "downsample" for s in bed.policies[i].stages)
        chance = all(s.reducer == "random" for s in bed.policies[i].stages)
        if resized == images and not chance:
            found.append(Tried(bed.policies[i], float(bed.costs[i]), bed.correct[i]))
    return found


def ablate(
    bed: Bed,
    seeds: int,
    evaluations: int,
    run: Callable[[Policy, Split], Outcomes],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Return what each step reaches at each budget, as plain JSON data.

    Args:
        bed: the test-bed.
        seeds: searches of each step; what is run is the best of all of them, as picked.
        evaluations: of an example, for each search.
        run: evaluates a policy of the full model on the selection examples, or on the held-out ones.
        say: called with a line of progress.
    """
    published = recipes(bed)
    fixed = [recipes(bed, images=True)], [published]
    courses: list[tuple[str, list[list[Tried]]]] = list(zip(FIXED, fixed, strict=True))
    for step in steps(bed.space, [t.policy for t in published]):
        courses.append((step.name, [search_part(bed, step, seed, evaluations) for seed in range(seeds)]))
        say(f"{step.name}: {seeds} searches of {evaluations:,} evaluations")
    ran: dict[tuple[str, Split], Outcomes] = {}

    def answers(policy: Policy, split: Split) -> Outcomes:
        if (policy.id, split) not in ran:
            ran[policy.id, split] = run(policy, split)
        return ran[policy.id, split]

    rows = []
    for share, limit in sorted(bed.limits.items(), reverse=True):
        before: Outcomes | None = None
        images: Outcomes | None = None
        tuned: Outcomes | None = None
        for place, (name, searches) in enumerate(courses):
            known = [] if name == BASELINE else published  # to every step: they are measured first
            listed = shortlist(bed, [*known, *(t for search in searches for t in search)], limit, LISTED)
            if not listed:
                continue
            say(f"{bed.tokens(share)} tokens, {name}: running {len(listed)} policies")
            quality = {t.policy.id: float(answers(t.policy, "selection").correct.mean()) for t in listed}
            chosen = max(listed, key=lambda t: (quality[t.policy.id], -t.cost))
            outcomes = answers(chosen.policy, "held-out")
            images = outcomes if name == BASELINE else images
            tuned = outcomes if place == len(FIXED) else tuned
            each = [p for search in searches for p in shortlist(bed, [*known, *search], limit)]
            on_bed = np.array([p.correct[bed.parts["held-out"]].mean() for p in each])
            rows.append(
                {
                    "tokens": bed.tokens(share),
                    "limit": limit,
                    "step": name,
                    "policy": chosen.policy.describe(),
                    "policy_id": chosen.policy.id,
                    "cost": chosen.cost,
                    "listed": len(listed),
                    "selection": quality[chosen.policy.id],
                    "quality": _limits(share_of(outcomes.correct, outcomes.image)),
                    "n": len(outcomes),
                    "against_images": _difference(outcomes, images),
                    "against_tuned": _difference(outcomes, tuned),
                    "against_before": None if name == BASELINE else _difference(outcomes, before),
                    "on_bed": float(on_bed.mean()),
                    "on_bed_stderr": float(on_bed.std(ddof=1) / np.sqrt(len(on_bed)))
                    if len(on_bed) > 1
                    else None,
                }
            )
            before = None if name == BASELINE else outcomes
    return {
        "on": bed.measured.on,
        "model": bed.space.full.id,
        "status": bed.status,
        "seeds": seeds,
        "evaluations": evaluations,
        "split": "held-out",
        "rows": rows,
    }


def _difference(one: Outcomes, other: Outcomes | None) -> dict[str, Any] | None:
    if other is None or other is one:
        return None
    mine, theirs = shared(one, other)
    return _limits(paired(one.correct[mine], other.correct[theirs], one.image[mine]))


def _limits(found: Interval) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high}
