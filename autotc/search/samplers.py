"""Optuna samplers by name, set up for a fixed-dimensional, constrained, two-objective study.

A fresh sampler is made for every trial from the study's seed and the trial's number. All that a sampler needs
to know is in the study's storage, so a study that was killed proposes what it would have proposed anyway.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

from autotc.errors import SpecError
from autotc.registry import nearest

STARTUP_TRIALS = 16
POPULATION = 16


class NSGAIISampler(optuna.samplers.NSGAIISampler):
    """Optuna's, with each generation's parents in the order of their trials.

    Optuna draws children from the parents in the order in which they were chosen, or, in a process that finds them
    chosen, in that of their trials: a study that was killed would go on otherwise than it would have. The class has
    the name of Optuna's because the name is part of what is stored with a trial.
    """

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return the parents of a generation."""
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


def _tpe(seed: int, workers: int) -> BaseSampler:
    # Multivariate: depth, share and reducer act together (for several objectives Optuna's own default is
    # independent). On the fake problem of the tests both find about as much; this one takes a third of the
    # time. The liar only matters when other workers' trials are running.
    return TPESampler(
        seed=seed, multivariate=True, n_startup_trials=STARTUP_TRIALS, constant_liar=workers > 1
    )


def _nsga2(seed: int, workers: int) -> BaseSampler:
    # The default population of 50 would leave a search of some 70 trials two generations.
    return NSGAIISampler(seed=seed, population_size=POPULATION)


def _gp(seed: int, workers: int) -> BaseSampler:
    return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, deterministic_objective=False)


def _random(seed: int, workers: int) -> BaseSampler:
    return RandomSampler(seed=seed)


_MAKERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "gp": _gp,
    "random": _random,
}
NAMES = tuple(_MAKERS)


def make(name: str, seed: int, workers: int = 1, space: IntersectionSearchSpace | None = None) -> BaseSampler:
    """Return a sampler.

    Args:
        name: tpe, nsga2, gp or random.
        seed: of this trial.
        workers: processes that share the study.
        space: remembers for TPE, from one trial to the next, which parameters all trials have in common; to be used
            with one study only.

    Raises:
        SpecError: unknown name.
    """
    if name not in _MAKERS:
        raise SpecError(f"--sampler: unknown sampler {name!r}. {nearest(name, _MAKERS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = _MAKERS[name](seed, workers)
    if space is not None and isinstance(sampler, TPESampler):
        sampler._search_space = space  # finding it anew among 1,000 trials takes as long as drawing
    return sampler


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of one trial: far apart for neighbouring numbers, within 32 bits."""
    return (seed * 1_000_003 + (number + 1) * 0x9E3779B1) & 0xFFFFFFFF
