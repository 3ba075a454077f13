"""Strategies compared on a test-bed over many seeds: the gap they close, their regret, and what they use up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotc.testbed import picking, ratios
from autotc.testbed.bed import Bed
from autotc.testbed.score import Candidates, area, best_at, gap_closed
from autotc.testbed.simulate import Course, lattice, presets, scope

TARGET = 0.9  # of the gap between the presets and the best that is known


def study(bed: Bed, courses: Sequence[Course], evaluations: int) -> dict[str, Any]:
    """Return what the contract names for each strategy, and what it rests on, as plain JSON data.

    The best that is known is the larger of two areas: of the measured policies, and of all policies that any course
    tried, picked together. Evaluations to the target are counted up to the first trial after which the gap is closed by
    `TARGET`; courses that never get there count as all evaluations in medians, and are counted apart.

    Args:
        bed: that the courses ran on.
        courses: of each strategy and seed.
        evaluations: that each could use.
    """
    most, least = scope(bed)
    base, points = presets(bed), lattice(bed)
    union = points
    for course in courses:
        if course.found is not None:
            union = union + course.found
    floor, best = area(base, most, least), max(area(points, most, least), area(union, most, least))
    best_held = {s: max(best_at(points, c), best_at(union, c)) for s, c in bed.limits.items()}
    by_name: dict[str, list[Course]] = {}
    for course in courses:
        by_name.setdefault(course.strategy, []).append(course)
    reached = {
        name: np.array([_reached(c, floor, best, evaluations) for c in own]) for name, own in by_name.items()
    }
    ends = {
        name: np.array([gap_closed(c.areas[-1] if c.areas else floor, floor, best) for c in own])
        for name, own in by_name.items()
    }
    agreement = bed.surrogate.agreement
    images = {name: len(np.unique(bed.image[index])) for name, index in bed.parts.items()}
    return {
        "status": bed.status,
        "complete": bed.complete,
        "on": bed.measured.on,
        "model": bed.space.full.id,
        "workload": bed.space.workload.describe(),
        "limit": {"tflops": bed.space.high, "convention": bed.space.convention},
        "policies": {"measured": len(bed.policies), "presets": int(bed.presets.sum())},
        "examples": {name: len(index) for name, index in bed.parts.items()},
        "images": images,
        "evaluations": evaluations,
        "seeds": len({c.seed for c in courses}),
        "areas": {"presets": floor, "best": best, "unit": "accuracy x TFLOP per 1,000 requests (exact)"},
        "best_at": {bed.tokens(s): v for s, v in best_held.items()},
        "presets_at": {bed.tokens(s): best_at(base, c) for s, c in bed.limits.items()},
        "surrogate": {**vars(agreement), "scales": list(bed.surrogate.scales)},
        "strategies": [
            _strategy(name, own, bed, base, best_held, floor, best, evaluations, reached[name], ends[name])
            for name, own in by_name.items()
        ],
        "ratios": ratios.to_target(by_name, reached, ends, evaluations),
        "ratio_to_rivals_end": ratios.to_rivals_end(by_name, ends, floor, best, evaluations),
        "picking": picking.compare(bed, by_name.get(ratios.OWN) or next(iter(by_name.values()))),
    }


def _strategy(
    name: str,
    courses: Sequence[Course],
    bed: Bed,
    base: Candidates,
    best_held: Mapping[float, float],
    floor: float,
    best: float,
    evaluations: int,
    reached: np.ndarray,
    closed: np.ndarray,
) -> dict[str, Any]:
    regret, errors = {}, {}
    for share, limit in bed.limits.items():
        values = np.array(
            [best_held[share] - best_at(base + c.found if c.found else base, limit) for c in courses]
        )
        regret[bed.tokens(share)], errors[bed.tokens(share)] = _number(values.mean()), _stderr(values)
    grid = np.linspace(0, evaluations, 41)
    curves = np.array([ratios.curve(c, floor, best, grid) for c in courses])
    return {
        "strategy": name,
        "evaluations_to_target": _median(reached, evaluations),
        "reached_target": int((reached <= evaluations).sum()),
        "gap_closed": _number(closed.mean()),
        "gap_closed_stderr": _stderr(closed),
        "regret_at": regret,
        "regret_at_stderr": errors,
        "seeds": len(courses),
        "evaluations": float(np.mean([c.evaluations[-1] if c.evaluations else 0 for c in courses])),
        "trials": float(np.mean([len(c.evaluations) for c in courses])),
        "over_the_limit": int(sum(c.over for c in courses)),
        "exhausted": int(sum(c.exhausted for c in courses)),
        "off_lattice": float(np.mean([c.off for c in courses])),
        "distance": float(np.median([c.distance for c in courses])),
        "ask_ms": 1000 * float(np.mean([c.ask_s for c in courses])),
        "curve": {"evaluations": grid.tolist(), "gap_closed": [_number(v) for v in curves.mean(0)]},
    }


def _reached(course: Course, floor: float, best: float, evaluations: int) -> float:
    """Evaluations to the target; infinite where it was not reached within what was allowed."""
    for used, value in zip(course.evaluations, course.areas, strict=True):
        if used <= evaluations and gap_closed(value, floor, best) >= TARGET:
            return float(used)
    return float("inf")


def _median(reached: np.ndarray, evaluations: int) -> float | None:
    """The median over seeds; None where fewer than half of them reach the target."""
    value = float(np.median(np.minimum(reached, 10.0 * evaluations)))
    return value if value <= evaluations else None


def _stderr(values: np.ndarray) -> float | None:
    return None if len(values) < 2 else _number(values.std(ddof=1) / np.sqrt(len(values)))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
