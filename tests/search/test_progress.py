"""The search makes progress: on a problem whose best policies are known it finds more than random does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotc.cost import estimate
from autotc.pareto import hypervolume
from autotc.search import samplers
from autotc.search._inverse import encode
from autotc.search._references import references
from autotc.search.space import Space
from autotc.workload import PROFILES
from tests.fakes import FULL, PROXY, accept, true_quality
from tests.search.points import REDUCERS

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
VQA = PROFILES["vqa"]
SEEDS = (0, 1, 2, 3)
TRIALS = 60


def area(points: list[tuple[float, float]]) -> float:
    """Area above guessing and below the uncompressed cost, cost on a logarithmic scale."""
    logs = np.array([[q, math.log(c)] for q, c in points])
    return hypervolume(logs, [0.25, math.log(6000.0)], maximise=(True, False))


def searched(space: Space, sampler: str, seed: int, default: bool) -> float:
    """Run a search without evaluator and store: the sampler sees the true quality and a little noise."""
    import optuna

    from autotc.search._loop import budget_place

    study = optuna.create_study(directions=["maximize", "minimize"])
    rng, points = np.random.default_rng(seed), []
    starts = [p for p in (encode(space, policy) for _, policy in references(space)) if p] if default else []
    for number in range(TRIALS):
        if number < len(starts):
            study.enqueue_trial(starts[number])
        elif default:
            place = budget_place(seed, number)
            study.enqueue_trial({"budget": space.low * (space.high / space.low) ** place})
        study.sampler = samplers.make(sampler, samplers.trial_seed(seed, number))
        trial = study.ask(fixed_distributions=dict(space.distributions))
        policy = space.decode(trial.params).policy
        quality, cost = true_quality(policy), estimate(policy, FULL, VQA).tflops_exact
        study.tell(trial, (quality + rng.normal(0, 0.01), cost))
        points.append((quality, cost))
    return area(points)


def test_the_default_search_beats_random() -> None:
    space = Space(FULL, PROXY, VQA, 800.0, reducers=REDUCERS, check=accept)
    mine = np.array([searched(space, "tpe", s, default=True) for s in SEEDS])
    random = np.array([searched(space, "random", s, default=False) for s in SEEDS])
    # 0.62 against 0.58 where these lines were written; a wrong direction falls far below random
    assert mine.mean() > random.mean() + 0.03, (mine, random)
    assert (mine > random).all(), (mine, random)
