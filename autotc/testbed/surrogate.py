"""What a policy between those of a test-bed would answer: a Gaussian process over policies, example by example.

A policy is encoded by its cost, by the share of the tokens that is alive at each depth, and by which method takes how
much away at each site. The process smooths the measured answers of all policies to each example, so that hard
examples stay hard, and the mean over the examples is the process's own prediction. Answers are then drawn, once and
for all for a policy, with an offset as large as the errors that the process makes on policies left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg, optimize, stats
from scipy.spatial.distance import cdist

from autotc.policy import Policy, Stage

BLOCKS = ("cost", "alive", "methods")  # of the encoding, each with a length scale of its own
FITTED_ON = 500  # policies that length scales are fitted on; the process itself rests on all
BANDS = 5  # of the cost, among whose policies ranks are compared at equal cost


@dataclass(frozen=True)
class Encoding:
    """Turns policies into numbers.

    Args:
        methods: (site, reducer, ""), and (site, reducer, "name=value") of each parameter that is not the default.
        depths: shares of the language model's depth at which the tokens alive are read.
    """

    methods: tuple[tuple[str, str, str], ...]
    depths: tuple[float, ...] = tuple(i / 12 for i in range(13))

    @staticmethod
    def of(policies: Sequence[Policy]) -> Encoding:
        """Return an encoding that knows the methods of some policies."""
        return Encoding(tuple(sorted({key for p in policies for s in p.stages for key in _methods(s)})))

    def __call__(self, policies: Sequence[Policy], costs: np.ndarray) -> dict[str, np.ndarray]:
        """Return one array (P, width) a block.

        Args:
            policies: (P,), for one model.
            costs: (P,) exact cost.
        """
        rows = [self._row(p) for p in policies]
        return {
            "cost": np.log(np.asarray(costs, float))[:, None],
            "alive": np.array([alive for alive, _ in rows]).reshape(len(rows), -1),
            "methods": np.array([methods for _, methods in rows]).reshape(len(rows), -1),
        }

    def _row(self, policy: Policy) -> tuple[list[float], list[float]]:
        """Tokens alive (log2 of the share, down to 1 / 1024) at each place, and those removed by each method."""
        methods = [0.0] * (len(self.methods) + 2)  # and one for what is not known, one for compact positions
        alive, tower = {"input": 0.0, "vision": 0.0, "projector": 0.0}, 0.0
        curve = [0.0] * len(self.depths)
        before = 0.0
        for stage in policy.stages:
            now = math.log2(max(stage.keep, 1 / 1024))
            for key in _methods(stage):
                column = self.methods.index(key) if key in self.methods else len(self.methods)
                methods[column] += (before - now) / (
                    2 if key[2] else 1
                )  # parameters matter less than the method
            if stage.site in alive:
                for site in list(alive)[list(alive).index(stage.site) :]:
                    alive[site] = now
                curve = [now] * len(curve)
                if stage.site == "vision":
                    tower += (before - now) * (1 - (stage.layer or 0) / policy.model.vision_blocks)
            else:
                start = (stage.layer or 0) / policy.model.decoder_layers
                curve = [now if d >= start - 1e-9 else c for d, c in zip(self.depths, curve, strict=True)]
            before = now
        methods[-1] = float(policy.positions == "compact")
        # a difference counts by its share of the depth
        width = math.sqrt(len(self.depths))
        return [alive["input"], alive["projector"], tower, *(c / width for c in curve)], methods


def _methods(stage: Stage) -> list[tuple[str, str, str]]:
    own = [f"{name}={value}" for name, value in stage.params.items()]
    return [(stage.site, stage.reducer, setting) for setting in ("", *own)]


@dataclass(frozen=True)
class Agreement:
    """How well the surrogate predicts policies it was not given (each left out in turn).

    Args:
        rank: Spearman's rho of predicted and measured quality.
        rank_equal_cost: the same within bands of the cost, mean over the bands.
        error: root mean square error of the quality.
        sampling: part of it that the number of examples explains: the standard error of a measured quality.
        offset: the rest: standard deviation of what is added to the answers of a policy between those measured.
        n: policies.
    """

    rank: float
    rank_equal_cost: float
    error: float
    sampling: float
    offset: float
    n: int


class Surrogate:
    """Fitted on policies whose answers are known.

    Args:
        policies: (P,), for the full model.
        costs: (P,) exact cost.
        correct: (P, n) bool, their answers.
        seed: of the policies that length scales are fitted on.
    """

    def __init__(
        self, policies: Sequence[Policy], costs: np.ndarray, correct: np.ndarray, seed: int = 0
    ) -> None:
        self._encoding = Encoding.of(policies)
        self._there = self._encoding(policies, costs)
        self._costs, self._measured = np.asarray(costs, float), correct.mean(1)
        self._center = correct.mean(0)
        residual = correct - self._center
        self._target = residual.mean(1)
        rng = np.random.default_rng(seed)
        few = np.sort(rng.permutation(len(policies))[:FITTED_ON])
        self.scales, signal, noise = _fit({k: v[few] for k, v in self._there.items()}, self._target[few])
        self._noise = noise / signal
        kernel = self._kernel(self._there)
        self._inverse = linalg.inv(kernel + self._noise * np.eye(len(policies)))
        self._weights = self._inverse @ residual  # (P, n)
        np.fill_diagonal(kernel, 0.0)
        self._usual = float(np.median(kernel.max(1)))

    def _kernel(self, here: dict[str, np.ndarray]) -> np.ndarray:
        return _similarity(here, self._there, self.scales)

    @cached_property
    def agreement(self) -> Agreement:
        """How well it predicts policies that are left out, by the closed form of a Gaussian process."""
        n = len(self._target)
        errors = (self._inverse @ self._target) / np.diag(self._inverse)
        predicted = self._target - errors
        bands = np.argsort(np.argsort(self._costs)) * BANDS // n
        ranks = [
            stats.spearmanr(predicted[bands == b], self._target[bands == b]).statistic for b in range(BANDS)
        ]
        quality, examples = self._measured, len(self._center)
        sampling = float(np.mean(quality * (1 - quality)) / examples)
        square = float(np.mean(errors**2))
        return Agreement(
            float(stats.spearmanr(predicted, self._target).statistic),
            float(np.mean(ranks)),
            math.sqrt(square),
            math.sqrt(sampling),
            math.sqrt(max(0.0, square - sampling)),
            n,
        )

    def chances(self, policy: Policy, cost: float) -> tuple[np.ndarray, float]:
        """Return the chance of each example to be answered rightly, (n,), and how far the policy is from the lattice.

        The distance is in units of the one that a policy of the lattice usually has from the nearest other one: 0 on
        the lattice, 1 as far off as its policies are from one another.
        """
        similar = self._kernel(self._encoding([policy], np.array([cost])))[0]
        nearest, usual = max(float(similar.max()), 1e-300), min(self._usual, 1 - 1e-12)
        distance = math.sqrt(math.log(min(1.0, nearest)) / math.log(usual))
        return self._center + similar @ self._weights, distance

    def answers(self, policy: Policy, cost: float) -> tuple[np.ndarray, float]:
        """Return answers (n,) bool drawn for a policy, always the same ones, and its distance from the lattice."""
        chances, distance = self.chances(policy, cost)
        rng = np.random.default_rng(int(policy.id[:15], 16))
        offset = self.agreement.offset * rng.standard_normal()
        return rng.random(len(chances)) < np.clip(chances + offset, 0.0, 1.0), distance


def _similarity(
    here: dict[str, np.ndarray], there: dict[str, np.ndarray], scales: Sequence[float]
) -> np.ndarray:
    square = sum(
        cdist(here[name], there[name], "sqeuclidean") / scale**2
        for name, scale in zip(BLOCKS, scales, strict=True)
    )
    return np.asarray(np.exp(-0.5 * square))


def _fit(there: dict[str, np.ndarray], target: np.ndarray) -> tuple[tuple[float, ...], float, float]:
    """Return length scales, signal and noise variance of the largest marginal likelihood."""
    squares = [cdist(there[name], there[name], "sqeuclidean") for name in BLOCKS]
    start = [math.sqrt(max(float(np.median(s[s > 0])) if (s > 0).any() else 1.0, 1e-6)) for s in squares]
    spread = max(float(target.var()), 1e-8)

    def loss(x: np.ndarray) -> float:
        kernel = np.exp(x[-2]) * np.exp(
            -0.5 * sum(s / np.exp(2 * t) for s, t in zip(squares, x, strict=False))
        )
        kernel[np.diag_indices_from(kernel)] += np.exp(x[-1]) + 1e-10
        try:
            factor = linalg.cho_factor(kernel, lower=True, overwrite_a=True, check_finite=False)
        except linalg.LinAlgError:
            return 1e10
        half = linalg.cho_solve(factor, target, check_finite=False)
        return float(0.5 * target @ half + np.log(np.diag(factor[0])).sum())

    first = np.array([*np.log(start), math.log(spread), math.log(spread / 10)])
    bounds = [(t - 4, t + 4) for t in first[:3]]
    bounds += [(first[3] - 5, first[3] + 5), (math.log(spread) - 9, math.log(spread) + 1)]
    found = optimize.minimize(loss, first, method="Nelder-Mead", bounds=bounds, options={"maxfev": 250})
    *scales, signal, noise = np.exp(found.x)
    return tuple(float(s) for s in scales), float(signal), float(noise)
