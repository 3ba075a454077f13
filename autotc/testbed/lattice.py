"""The policies of a test-bed: published recipes at three budgets, and points spread over the search's own space."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
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
from autotc.search._dimensions import NONE, counts
from autotc.search._references import references
from autotc.search.space import Space
from autotc.search.strategies.points import from_unit
from autotc.workload import Workload

SCHEMA = "autotc/testbed/1"
PRESET = "preset"  # the kind of a published recipe; the other kinds name the sites
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill [0, 1] evenly at any count
# How often each choice that decides about a policy's sites is made; the rest of a point is uniform.
ENCODERS = {NONE: 0.4, "projector": 0.4, "vision": 0.2}
STAGES = (0.25, 0.35, 0.25, 0.15)  # cuts inside the language model: none, one, two, three
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
    """Return the space that is searched: at most what a third of the tokens (192 of 576) costs, literature.

    Args:
        full: the model whose costs count.
        evaluated: the model that runs.
        workload: the mix of requests that costs are for.
        check: as for `Space`.
    """
    largest = budget(full, workload, SHARES[0], "literature")
    return Space(full, evaluated, workload, largest, "literature", check=check)


def budget(full: Anatomy, workload: Workload, share: float, convention: str) -> float:
    """Return what random tokens behind the projector cost, TFLOP, where a share of them stays."""
    stage = Stage(site="projector", reducer="random", keep=round(share, 6))
    return estimate(Policy(model=_model(full), stages=(stage,)), full, workload).get(convention)


def sample_lattice(
    space: Space, n: int = 2000, seed: int = 0, recipes: Sequence[Point] | None = None
) -> list[Point]:
    """Return the published recipes at the three budgets, then `n` drawn policies; a pure function of its arguments.

    Budgets are spread evenly on a logarithmic scale, every reducer comes about as often as the others of its site, and
    the first policies of a larger lattice are those of a smaller one.

    Args:
        space: where policies are drawn; its full model, evaluated model and workload place the recipes.
        n: how many are drawn.
        seed: of the draw.
        recipes: what comes first; None for all published recipes at the three budgets.

    Raises:
        ValueError: the space holds fewer policies than that.
    """
    found = _presets(space) if recipes is None else list(recipes)
    seen = {_identity(space, p.policy) for p in found}
    rng = np.random.default_rng([seed, 5])
    names = {site: _endless(options, rng) for site, options in space.choices.items() if options}
    for i in range(n):
        for _ in range(TRIES):
            policy = _draw(space, (i * GOLDEN) % 1.0, names, rng)
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


def _draw(space: Space, place: float, names: dict[str, Iterator[str]], rng: np.random.Generator) -> Policy:
    params = from_unit(space.distributions, rng.random(len(space.distributions)))
    encoders = {name: p for name, p in ENCODERS.items() if name == NONE or space.choices[name]}
    weights = np.array(list(encoders.values()))
    encoder = str(rng.choice(list(encoders), p=weights / weights.sum()))
    chosen = {
        "budget": space.low * (space.high / space.low) ** place,
        "input": next(names["input"]) if "input" in names and rng.random() < INPUT else NONE,
        "encoder": encoder,
        "decoder_stages": int(rng.choice(len(STAGES), p=STAGES)),
        "withdraw": space.withdrawing[0] if space.withdrawing and rng.random() < WITHDRAW else NONE,
        **{f"{site}_reducer": next(it) for site, it in names.items() if site in (encoder, "decoder")},
    }
    params |= {name: value for name, value in chosen.items() if name in space.distributions}
    return space.decode(params).policy


def _endless(options: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    while True:
        yield from (options[i] for i in rng.permutation(len(options)))


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
        SpecError: it holds more policies than that; or those of another seed or version, which cannot be added to.
    """
    there = read(path, space) if path.is_file() else []
    drawn = len(there) - _count(there)
    if there and drawn > n:
        raise SpecError(
            f"--policies: {n:,}, but {path} holds {drawn:,} drawn ones. Ask for {drawn:,} or more, or name another "
            "folder: --out"
        )
    if there and drawn == n:
        return there
    say(f"drawing {n - drawn:,} policies ...")
    points = sample_lattice(space, n, seed, [p for p in there if p.kind == PRESET] if there else recipes)
    if points[: len(there)] != there:
        raise SpecError(
            f"--policies: {n:,}, but the {drawn:,} in {path} were drawn with another --seed than {seed}, or by another "
            f"version, and cannot be added to. Ask for {drawn:,}, or name another folder: --out"
        )
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


def _count(points: Sequence[Point]) -> int:
    return sum(p.kind == PRESET for p in points)


def _model(anatomy: Anatomy) -> ModelRef:
    return ModelRef(
        family=anatomy.family,
        id=anatomy.id,
        decoder_layers=anatomy.decoder.layers,
        vision_blocks=anatomy.vision.blocks,
    )
