"""The policies of a test-bed: published recipes at three budgets, and points spread over the search's own space."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotc.anatomy import Anatomy
from autotc.cost import estimate
from autotc.errors import AutotcError, SpecError
from autotc.export import write_text
from autotc.leaderboard import SHARES, plan
from autotc.policy import ModelRef, Policy, Stage
from autotc.search._dimensions import BOTH, NONE, counts
from autotc.search._inverse import allowed
from autotc.search._references import references
from autotc.search.space import Space
from autotc.search.strategies.points import from_unit
from autotc.workload import Workload

SCHEMA = "autotc/testbed/1"
PRESET = "preset"  # the kind of a published recipe; the other kinds name the sites
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill [0, 1] evenly at any count
# How often each choice that decides about a policy's sites is made; the rest of a point is uniform.
ENCODERS = {NONE: 0.25, "projector": 0.3, "vision": 0.2, BOTH: 0.25}
STAGES = (0.25, 0.35, 0.25, 0.15)  # cuts inside the language model: none, one, two, three
TOWER = (0.4, 0.3, 0.3)  # cuts inside the vision tower, where there are any: one, two, three
LOW = 0.6  # budgets are drawn from this share of the smallest one that is compared
INPUT, WITHDRAW = 0.2, 0.2
TRIES = 100  # for one policy


@dataclass(frozen=True)
class Point:
    """One policy of a test-bed, for the full model.

    Args:
        kind: "preset", or the sites it uses, such as "projector+decoder".
        label: name of the recipe, "" where it is none.
    """

    kind: str
    label: str
    policy: Policy


def space_of(full: Anatomy, evaluated: Anatomy, workload: Workload, check: Any = None) -> Space:
    """Return the space that is searched: at most what a third of the tokens (192 of 576) costs, exactly counted.

    Args:
        full: the model whose costs count.
        evaluated: the model that runs.
        workload: the mix of requests that costs are for.
        check: as for `Space`.
    """
    largest = budget(full, workload, SHARES[0], "exact")
    return Space(full, evaluated, workload, largest, "exact", check=check)


def budget(full: Anatomy, workload: Workload, share: float, convention: str) -> float:
    """Return what random tokens behind the projector cost, TFLOP, where a share of them stays."""
    stage = Stage(site="projector", reducer="random", keep=round(share, 6))
    return estimate(Policy(model=_model(full), stages=(stage,)), full, workload).get(convention)


def sample_lattice(
    space: Space, n: int = 2000, seed: int = 0, recipes: Sequence[Point] | None = None
) -> list[Point]:
    """Return the published recipes at the three budgets, then `n` drawn policies; a pure function of its arguments.

    Budgets are spread evenly on a logarithmic scale, every reducer comes about as often as the others of its site, and
    the first policies of a larger lattice are those of a smaller one: each is drawn by its own number.

    Args:
        space: where policies are drawn; its full model, evaluated model and workload place the recipes.
        n: how many are drawn.
        seed: of the draw.
        recipes: what comes first, or all that is there already; None for all published recipes at the three budgets.

    Raises:
        ValueError: the space holds fewer policies than that.
    """
    found = _presets(space) if recipes is None else list(recipes)
    seen = {_identity(space, p.policy) for p in found}
    for i in range(len(found) - _count(found), n):
        rng = np.random.default_rng([seed, i])
        for _ in range(TRIES):
            policy = _draw(space, i, seed, rng)
            if _identity(space, policy) not in seen:
                break
        else:
            raise ValueError(f"--policies: {n}: the space seems to hold no more than {i} policies")
        seen.add(_identity(space, policy))
        found.append(Point("+".join(dict.fromkeys(s.site for s in policy.stages)), "", policy))
    return found


def _presets(space: Space) -> list[Point]:
    """Every recipe at equal exact cost at each budget, and those a study starts from: scaled to the limit."""
    entries, _, _ = plan(space.full, space.evaluated, space.workload)
    named = [(e.label, e.policy) for e in entries if e.policy is not None]
    named += [(label, policy) for label, policy in references(space, all_presets=True) if policy.stages]
    found: dict[Any, Point] = {}
    for label, policy in named:
        if space.fits(policy):
            found.setdefault(_identity(space, policy), Point(PRESET, label, policy))
    return list(found.values())


def _draw(space: Space, number: int, seed: int, rng: np.random.Generator) -> Policy:
    params = from_unit(space.distributions, rng.random(len(space.distributions)))
    encoders = {
        name: p
        for name, p in ENCODERS.items()
        if name == NONE or all(space.choices[site] for site in name.split("+"))
    }
    weights = np.array(list(encoders.values()))
    low = max(space.low, LOW * budget(space.full, space.workload, SHARES[-1], space.convention))
    chosen = {
        "budget": low * (space.high / low) ** ((number * GOLDEN) % 1.0),
        "input": _turn(space, "input", number, seed) if rng.random() < INPUT else NONE,
        "encoder_sites": str(rng.choice(list(encoders), p=weights / weights.sum())),
        "vision_stages": 1 + int(rng.choice(len(TOWER), p=TOWER)),
        "decoder_stages": int(rng.choice(len(STAGES), p=STAGES)),
        "withdraw": space.withdrawing[0] if space.withdrawing and rng.random() < WITHDRAW else NONE,
        **{
            f"{site}_reducer": _turn(space, site, number, seed) for site in ("vision", "projector", "decoder")
        },
    }
    params |= {
        name: value
        for name, value in chosen.items()
        if name in space.distributions and allowed(space.distributions[name], value)
    }
    return space.decode(params).policy


def _turn(space: Space, site: str, number: int, seed: int) -> str:
    """Return the reducer of a site whose turn it is: each comes once before any comes again."""
    options = space.choices[site]
    if not options:
        return NONE
    rounds, place = divmod(number, len(options))
    order = np.random.default_rng([seed, list(space.choices).index(site), rounds]).permutation(len(options))
    return options[order[place]]


def _identity(space: Space, policy: Policy) -> tuple[object, ...]:
    sizes = (space.full.visual_tokens(r.width, r.height, r.images) for r in space.workload.requests)
    return counts(policy, sizes)


# --- the file ---


def grow(
    path: Path,
    space: Space,
    n: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
    recipes: Sequence[Point] | None = None,
) -> list[Point]:
    """Return the policies of a file, which is written where there is none and added to where it holds fewer.

    Args:
        path: of the file.
        space, n, seed, recipes: as for `sample_lattice`; a file that is there keeps its recipes.
        say: told what takes time.

    Raises:
        SpecError: it holds more policies than that, or those of another seed.
    """
    there = read(path, space) if path.is_file() else []
    drawn = len(there) - _count(there)
    if there and (began := _head(path)["seed"]) != seed:
        raise SpecError(
            f"--seed: {seed}, but {path} was drawn with {began}. Ask for that one, or name another folder: --out"
        )
    if there and drawn > n:
        raise SpecError(
            f"--policies: {n:,}, but {path} holds {drawn:,} drawn ones. Ask for {drawn:,} or more, or name another "
            "folder: --out"
        )
    if there and drawn == n:
        return there
    say(f"drawing {n - drawn:,} policies ...")
    points = sample_lattice(space, n, seed, there or recipes)
    write(path, space, points, seed)
    return points


def write(path: Path, space: Space, points: Sequence[Point], seed: int) -> None:
    """Write the policies as JSON, one a line."""
    head = {"schema": SCHEMA, "model": space.model.model_dump(), "seed": seed, "presets": _count(points)}
    rows = [
        {
            "kind": p.kind,
            "label": p.label,
            "positions": p.policy.positions,
            "stages": [[s.site, s.layer, s.reducer, s.keep, s.params] for s in p.policy.stages],
        }
        for p in points
    ]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    write_text(path, f'{{"head": {json.dumps(head)},\n"policies": [\n{lines}\n]}}\n')


def read(path: Path, space: Space) -> list[Point]:
    """Read what `write` wrote.

    Raises:
        SpecError: the file is something else, or for another model.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["head"]["schema"] != SCHEMA or document["head"]["model"] != space.model.model_dump():
            raise ValueError(f"it is not for {space.model.id}")
        return [
            Point(
                row["kind"],
                row["label"],
                Policy(
                    model=space.model,
                    positions=row["positions"],
                    stages=tuple(
                        Stage(site=site, layer=layer, reducer=name, keep=keep, params=params)
                        for site, layer, name, keep, params in row["stages"]
                    ),
                ),
            )
            for row in document["policies"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AutotcError) as error:
        raise SpecError(
            f"{path}: not the policies of a test-bed ({error}); delete it to draw them again"
        ) from error


def _head(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))["head"])


def _count(points: Sequence[Point]) -> int:
    return sum(p.kind == PRESET for p in points)


def _model(anatomy: Anatomy) -> ModelRef:
    return ModelRef(
        family=anatomy.family,
        id=anatomy.id,
        decoder_layers=anatomy.decoder.layers,
        vision_blocks=anatomy.vision.blocks,
    )
