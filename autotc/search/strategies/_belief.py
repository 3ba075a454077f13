"""What the trials so far say about policies that were not tried: a Gaussian process over policies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize
from scipy.spatial.distance import cdist

from autotc.policy import Policy
from autotc.reducer import reducers as registry

DEPTHS = (
    0.0,
    0.125,
    0.25,
    0.375,
    0.5,
    0.625,
    0.75,
    0.875,
)  # of the language model, where the tokens alive are read
LEAST_SHARE = 1 / 1024  # a withdrawal counts as this
BLOCKS = ("cost", "alive", "methods", "settings")  # of the features, each with a length scale of its own
START = (1.5, 3.0, 3.0, 2.0)  # length scales that fitting starts from, and is drawn to
SIGNAL, NOISE = 0.06, 0.03  # standard deviations of quality, likewise
DRAWN_TO = 0.7  # standard deviation of the logarithms around them
LEVEL, SLOPE = (
    0.5,
    0.15,
)  # prior standard deviations of the quality and of its change with a doubling of the cost
MOST = 400  # trials that it rests on: those nearest the front

Features = dict[str, dict[object, float]]


def features(policy: Policy) -> Features:
    """Return what a policy does as sparse numbers: tokens alive by depth, tokens removed by method, settings.

    Tokens are log2 of the image's tokens, so that halving counts the same at any number.
    """
    found: Features = {name: {} for name in BLOCKS[1:]}
    before = 0.0
    alive: dict[str, float] = {}
    order = ("input", "vision", "projector")
    decoder = dict.fromkeys(DEPTHS, 0.0)
    for stage in policy.stages:
        now = math.log2(max(stage.keep, LEAST_SHARE))
        removed = before - now
        if stage.site == "decoder":
            start = (stage.layer or 0) / policy.model.decoder_layers
            decoder = {d: now if d >= start - 1e-9 else value for d, value in decoder.items()}
        else:
            decoder = dict.fromkeys(DEPTHS, now)
        if stage.site == "vision":  # the earlier, the less the tower sees
            share = 1 - (stage.layer or 0) / policy.model.vision_blocks
            alive["tower"] = alive.get("tower", 0.0) - removed * share
        if stage.site in order:
            alive |= dict.fromkeys(order[order.index(stage.site) :], now)
        cls = registry.get(stage.reducer)
        methods, settings = found["methods"], found["settings"]
        for key in ((stage.site, stage.reducer), (stage.site, "text", cls.query_aware)):
            methods[key] = methods.get(key, 0.0) + removed / 2
        for name, value in stage.params.items():
            settings[stage.site, stage.reducer, name, str(value)] = 1.0
        before = now
    width = math.sqrt(len(DEPTHS))
    found["alive"] = dict[object, float](alive) | {d: value / width for d, value in decoder.items()}
    found["settings"]["positions"] = float(policy.positions == "compact")
    return found


@dataclass(frozen=True)
class Scales:
    """Length scales of the blocks, and the variances of signal and noise."""

    lengths: tuple[float, ...] = START
    signal: float = SIGNAL**2
    noise: float = NOISE**2


class Belief:
    """The process, given trials.

    Args:
        tried: (n,) features of the policies.
        costs: (n,) their exact cost.
        quality: (n,) measured.
        most: the cost that others are relative to.
        scales: as `fit` found them.
    """

    def __init__(
        self,
        tried: Sequence[Features],
        costs: np.ndarray,
        quality: np.ndarray,
        most: float,
        scales: Scales,
    ) -> None:
        self._most, self._scales = most, scales
        self._center = float(np.mean(quality))
        self._columns = _columns(tried)
        self._there = _matrix(tried, costs, most, self._columns)
        kernel = _kernel(self._there, self._there, scales)
        kernel[np.diag_indices_from(kernel)] += scales.noise + 1e-9
        self._factor = linalg.cho_factor(kernel, lower=True, check_finite=False)
        self._weights = linalg.cho_solve(self._factor, quality - self._center, check_finite=False)

    def __call__(self, others: Sequence[Features], costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the expected quality of policies, (m,), and its standard deviation, that of a measurement left out."""
        here = _matrix(others, costs, self._most, self._columns)
        cross = _kernel(here, self._there, self._scales)
        mean = self._center + cross @ self._weights
        half = linalg.solve_triangular(self._factor[0], cross.T, lower=True, check_finite=False)
        own = self._scales.signal + LEVEL**2 + SLOPE**2 * here["cost"][:, 0] ** 2
        return mean, np.sqrt(np.maximum(own - (half**2).sum(0), 1e-12))


def fit(tried: Sequence[Features], costs: np.ndarray, quality: np.ndarray, most: float) -> Scales:
    """Return the scales of the largest posterior, given trials (n,)."""
    there = _matrix(tried, costs, most, _columns(tried))
    squares = [cdist(there[name], there[name], "sqeuclidean") for name in BLOCKS]
    trend, target = _trend(there["cost"], there["cost"]), quality - quality.mean()
    first = np.log([*START, SIGNAL**2, NOISE**2])
    widths = np.array([DRAWN_TO] * len(START) + [2 * DRAWN_TO] * 2)

    def loss(x: np.ndarray) -> float:
        distance = sum(s / np.exp(2 * t) for s, t in zip(squares, x[:-2], strict=True))
        kernel = np.exp(x[-2]) * _matern(np.asarray(distance)) + trend
        kernel[np.diag_indices_from(kernel)] += np.exp(x[-1]) + 1e-9
        factor, _ = linalg.cho_factor(kernel, lower=True, overwrite_a=True, check_finite=False)
        half = linalg.solve_triangular(factor, target, lower=True, check_finite=False)
        drawn = 0.5 * (((x - first) / widths) ** 2).sum()
        return float(0.5 * half @ half + np.log(np.diag(factor)).sum() + drawn)

    found = optimize.minimize(loss, first, method="Nelder-Mead", options={"maxfev": 200})
    *lengths, signal, noise = np.exp(found.x)
    return Scales(tuple(float(v) for v in lengths), float(signal), float(noise))


def _columns(tried: Sequence[Features]) -> dict[str, dict[object, int]]:
    names: dict[str, dict[object, int]] = {name: {} for name in BLOCKS[1:]}
    for found in tried:
        for block, values in found.items():
            for key in values:
                names[block].setdefault(key, len(names[block]))
    return names


def _matrix(
    tried: Sequence[Features], costs: np.ndarray, most: float, columns: dict[str, dict[object, int]]
) -> dict[str, np.ndarray]:
    """Return one array (n, width) a block; what has no column adds up, squared, in one of its own."""
    found = {"cost": np.log2(np.asarray(costs, float) / most)[:, None]}
    for block, places in columns.items():
        rows = np.zeros((len(tried), len(places) + 1))
        for row, given in zip(rows, tried, strict=True):
            unknown = 0.0
            for key, value in given[block].items():
                place = places.get(key)
                if place is None:
                    unknown += value**2
                else:
                    row[place] = value
            row[-1] = math.sqrt(unknown)
        found[block] = rows
    return found


def _kernel(here: dict[str, np.ndarray], there: dict[str, np.ndarray], scales: Scales) -> np.ndarray:
    one = np.hstack([here[name] / length for name, length in zip(BLOCKS, scales.lengths, strict=True)])
    two = np.hstack([there[name] / length for name, length in zip(BLOCKS, scales.lengths, strict=True)])
    near = scales.signal * _matern(cdist(one, two, "sqeuclidean"))
    return np.asarray(near + _trend(here["cost"], there["cost"]))


def _matern(square: np.ndarray) -> np.ndarray:
    """Matern 5/2 of squared distances."""
    r = np.sqrt(5 * np.maximum(square, 0.0))
    return np.asarray((1 + r + r**2 / 3) * np.exp(-r))


def _trend(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.asarray(LEVEL**2 + SLOPE**2 * (here @ there.T))
