"""Whole studies by simulation: what racing loses of the front that a study without it ends with, and what it saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autotc._outcomes import FLOATS, Outcomes
from autotc.pareto import non_dominated
from autotc.search._racing import ALPHA, dominated, rungs
from autotc.search._session import Board, Entry
from autotc.statistics_bench import answers, images

TRIALS = (60, 200)
EXAMPLES = 256
SCATTER = (0.05, 0.2)
TOP = 0.93
SHARED, ALIKE = (
    0.1,
    0.6,
)  # of the latent variance; answers of close policies then correlate by 0.5, as on the proxies


@dataclass(frozen=True)
class Race:
    """What racing did in simulated studies of one kind.

    Args:
        alpha: 1 / alpha is the evidence at which a trial is stopped; ALPHA is what `search` uses.
        trials, examples: of a study.
        questions: an image, "2" or "2 to 8".
        scatter: mean loss of a trial's true quality against the best at its cost.
        studies: simulated.
        members: of the fronts that the studies have without racing, all together.
        lost: of these, stopped by racing.
        false_elimination: share of the members that is lost.
        stopped: share of the trials that is stopped early.
        saved: share of the evaluations of examples that is saved.
    """

    alpha: float
    trials: int
    examples: int
    questions: str
    scatter: float
    studies: int
    members: int
    lost: int
    false_elimination: float
    stopped: float
    saved: float


def races(
    studies: int = 100,
    seed: int = 0,
    alphas: Sequence[float] = (ALPHA,),
    each: Callable[[str], None] = lambda line: None,
) -> list[Race]:
    """Return what racing loses and saves in studies of several kinds.

    Costs are spread evenly, as the search spreads them; the best true quality rises with the cost, trials lie an
    exponential distance below it that shrinks to a quarter during the study (the sampler learns), and every tenth
    lies on it. Answers of all trials to an example go together, and so do those to one image.

    Args:
        studies: of each kind.
        seed: of the simulation.
        alphas: levels to try.
        each: told what comes next.
    """
    found = []
    for trials in TRIALS:
        for scatter in SCATTER:
            for questions in ((2, 2), (2, 8)):
                each(f"racing in {studies} studies of {trials} trials ...")
                found += race(studies, trials, EXAMPLES, questions, scatter, seed, alphas)
    return found


def race(
    studies: int,
    trials: int,
    examples: int,
    questions: tuple[int, int] = (2, 2),
    scatter: float = 0.1,
    seed: int = 0,
    alphas: Sequence[float] = (ALPHA,),
) -> list[Race]:
    """Return what racing loses and saves in studies of one kind, for each level.

    Args:
        questions: fewest and most an image.
    """
    rng = np.random.default_rng([seed, trials, examples, *questions, round(1000 * scatter)])
    totals = {alpha: np.zeros(4) for alpha in alphas}  # members, lost, stopped, examples used
    for _ in range(studies):
        costs, outcomes = _trials(rng, trials, examples, questions, scatter)
        quality = np.array([o.correct.mean() for o in outcomes])
        front = non_dominated(np.column_stack([quality, costs]), maximise=(True, False))
        for alpha, total in totals.items():
            seen = _raced(costs, outcomes, alpha)
            stopped = seen < examples
            total += (front.sum(), (front & stopped).sum(), stopped.sum(), seen.sum())
    asked = f"{questions[0]} to {questions[1]}" if questions[0] < questions[1] else str(questions[0])
    return [
        Race(
            alpha, trials, examples, asked, scatter, studies, int(members), int(lost), float(lost / members),
            float(stopped / (studies * trials)), float(1 - used / (studies * trials * examples)),
        )
        for alpha, (members, lost, stopped, used) in totals.items()
    ]  # fmt: skip


def _trials(
    rng: np.random.Generator, trials: int, examples: int, questions: tuple[int, int], scatter: float
) -> tuple[np.ndarray, list[Outcomes]]:
    """Return cost and outcomes on all search examples of each trial."""
    image = images(rng, examples, questions)
    if questions[0] < questions[1]:  # as in a user's data: first questions of images come first
        turn = np.arange(examples) - np.searchsorted(image, image)
        image = image[np.argsort(turn, kind="stable")]
    place = (np.arange(trials) * 0.6180339887498949 + rng.random()) % 1  # of the cost in its range
    top = TOP - 0.35 * (1 - place) ** 2
    learnt = scatter / (1 + 3 * np.arange(trials) / trials)
    below = np.where(rng.random(trials) < 0.1, 0.0, rng.exponential(learnt))
    right = answers(rng, image, np.clip(top - below, 0.05, 0.99), SHARED, ALIKE)
    ids, names = np.arange(examples).astype(str), image.astype(str)
    text, missing = np.full(examples, ""), dict.fromkeys(FLOATS, np.full(examples, np.nan))
    made = [
        Outcomes(
            "search",
            "simulation",
            "accuracy",
            id=ids,
            image=names,
            group=text,
            answer=text,
            **{**missing, "correct": row},
        )
        for row in right
    ]
    return place, made


def _raced(costs: np.ndarray, outcomes: Sequence[Outcomes], alpha: float) -> np.ndarray:
    """Return on how many examples each trial was evaluated."""
    board, seen = Board(), np.zeros(len(outcomes), int)
    steps = rungs(len(outcomes[0]), racing=True)
    for number, (cost, whole) in enumerate(zip(costs, outcomes, strict=True)):
        best = board.incumbent(cost)
        for total in steps:
            seen[number] = total
            if total == steps[-1]:
                board.entries.append(Entry(number, number, str(number), (float(whole.correct.mean()), cost)))
            elif best and dominated(whole.take(slice(0, total)), outcomes[best.trial_id], alpha):
                break
    return seen
