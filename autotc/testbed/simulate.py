"""One search on a test-bed: the loop of a live study, with answers that are known already."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autotc._outcomes import FLOATS, Outcomes
from autotc.cost import estimate
from autotc.policy import Policy
from autotc.search._inverse import encode
from autotc.search._racing import dominated, gap, rungs
from autotc.search._references import references
from autotc.search._session import Board, Entry
from autotc.search.strategies import Seen, calibrated_on, make, starts_from_presets
from autotc.testbed.bed import Bed
from autotc.testbed.score import Candidates, area

TRIALS_AT_MOST = 1000


@dataclass(frozen=True)
class Tried:
    """A policy that a course evaluated on all search examples: at which trial, its exact cost and its answers (n,)."""

    number: int
    policy: Policy
    cost: float
    correct: np.ndarray


@dataclass
class Course:
    """What one strategy did with one seed.

    Args:
        strategy, seed: which.
        evaluations: (T,) evaluations of an example so far, after each trial.
        areas: (T,) area of what is known then, presets included.
        found: the policies it evaluated on all search examples.
        tried: the same with their answers, in the order of the trials.
        over: proposals over the limit.
        off: proposals whose answers the surrogate drew.
        distance: their median distance from the lattice, in units of that between its policies.
        ask_s: mean seconds a proposal.
        exhausted: whether it had nothing more to propose.
    """

    strategy: str
    seed: int
    evaluations: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    found: Candidates | None = None
    tried: list[Tried] = field(default_factory=list)
    over: int = 0
    off: int = 0
    distance: float = 0.0
    ask_s: float = 0.0
    exhausted: bool = False


def presets(bed: Bed) -> Candidates:
    """Return the published recipes of a test-bed."""
    return _candidates(bed, bed.costs[bed.presets], bed.correct[bed.presets])


def lattice(bed: Bed) -> Candidates:
    """Return all measured policies of a test-bed."""
    return _candidates(bed, bed.costs, bed.correct)


def scope(bed: Bed) -> tuple[float, float]:
    """Return the exact cost up to which, and the quality above which, areas count."""
    return max(bed.limits.values()), float(bed.means(bed.blind)["held-out"])


def starting_points(bed: Bed) -> list[dict[str, Any]]:
    """Return the points that a live study starts from: its references, as points of the space."""
    points = [encode(bed.space, policy) for _, policy in references(bed.space)]
    return [p for p in points if p is not None]


def run(
    bed: Bed,
    strategy: str,
    seed: int,
    evaluations: int,
    starts: list[dict[str, Any]] | None = None,
    known: Candidates | None = None,
) -> Course:
    """Let a strategy search until what is left of its evaluations is not enough for one more full trial.

    The published recipes are known to every strategy beforehand and cost nothing, as in a live study, whose
    references are measured first. A policy that was tried before costs nothing either. What a strategy has run before
    its first proposal is charged.

    Args:
        bed: what answers.
        strategy: its name.
        seed: of the search.
        evaluations: of an example, at most.
        starts: `starting_points`, where they are at hand.
        known: `presets`, where they are at hand.
    """
    space, course = bed.space, Course(strategy, seed)
    chooser, racing = make(strategy, space, seed), starts_from_presets(strategy)
    waiting = list(starting_points(bed) if starts is None else starts) if racing else []
    known = presets(bed) if known is None else known
    most, least = scope(bed)
    tried: dict[tuple[object, ...], Seen] = {}
    free = {bed.identity(bed.policies[i]) for i in np.flatnonzero(bed.presets)}
    history: list[Seen] = []
    found = _candidates(bed, np.zeros(0), np.zeros((0, len(bed.full)), bool))
    board, columns, distances = Board(), _columns(bed), []
    incumbents: dict[int, Outcomes] = {}
    spent, asking = calibrated_on(chooser), 0.0
    while spent + len(bed.parts["search"]) <= evaluations and len(history) < TRIALS_AT_MOST:
        begin = time.perf_counter()
        number = len(history)
        proposal = chooser.propose(history, number, waiting.pop(0) if waiting else None)
        asking += time.perf_counter() - begin
        if proposal is None:
            course.exhausted = True
            break
        policy = proposal.policy or space.decode(proposal.params).policy
        if estimate(policy, space.full, space.workload).get(space.convention) > space.high * (1 + 1e-9):
            course.over += 1
        key = bed.identity(policy)
        twin = tried.get(key)
        if twin is not None:
            history.append(replace(twin, number=number, proposed=proposal))
        else:
            answers = bed.answers(policy)
            if answers.distance > 0:
                distances.append(answers.distance)
            told, used, whole = _race(answers, bed, columns, board, incumbents, racing and key not in free)
            spent += 0 if key in free else used
            if whole:
                course.tried.append(Tried(number, policy, answers.cost, answers.correct))
                found = found + _candidates(bed, np.array([answers.cost]), answers.correct[None])
            seen = Seen(number, proposal, told, answers.cost)
            tried[key] = seen
            history.append(seen)
        course.evaluations.append(spent)
        if twin is None or not course.areas:
            course.areas.append(area(known + found, most, least))
        else:
            course.areas.append(course.areas[-1])
    course.found = found
    course.off, course.distance = len(distances), float(np.median(distances)) if distances else 0.0
    course.ask_s = asking / max(1, len(history))
    return course


def _race(
    answers: Any,
    bed: Bed,
    columns: Mapping[str, Any],
    board: Board,
    incumbents: dict[int, Outcomes],
    racing: bool,
) -> tuple[float, int, bool]:
    """Return what the strategy is told, evaluations used, and whether it was evaluated on all search examples."""
    right = answers.correct[bed.parts["search"]].astype(float)
    outcomes = Outcomes(**{**columns, "correct": right})
    best = board.incumbent(answers.cost)
    if racing and best is not None:
        for total in rungs(len(right), racing=True)[:-1]:
            part = outcomes.take(slice(0, total))
            if dominated(part, incumbents[best.trial_id]):
                return max(0.0, best.quality - gap(part, incumbents[best.trial_id])), total, False
    number = len(incumbents)
    incumbents[number] = outcomes
    board.entries.append(Entry(number, number, str(number), (float(right.mean()), answers.cost)))
    return float(right.mean()), len(right), True


def _columns(bed: Bed) -> dict[str, Any]:
    """What is the same in the outcomes of all policies on the search examples."""
    index = bed.parts["search"]
    missing = np.full(len(index), np.nan)
    text = np.full(len(index), "")
    return {
        "split": "search",
        "on": bed.measured.on,
        "metric": "accuracy",
        "id": np.array([f"{i:04d}" for i in index]),
        "image": np.array([f"{k:04d}" for k in bed.image[index]]),
        "group": text,
        "answer": text,
        **dict.fromkeys(FLOATS, missing),
    }


def _candidates(bed: Bed, cost: np.ndarray, correct: np.ndarray) -> Candidates:
    picking = np.concatenate([bed.parts["search"], bed.parts["selection"]])
    return Candidates(cost, correct[:, picking].mean(1), correct[:, bed.parts["held-out"]].mean(1))
