"""How far models agree on the order of policies: rank correlation, at equal cost, with what noise takes from it.

A model is a matrix of right answers (policies x examples). All models answer the same examples, so that sampling
the examples makes two models alike where an example is easy for both; the corrected figures compare halves with no
image in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, rankdata

Array = np.ndarray
Statistic = Callable[[Array, Array], float]
LEAST_POLICIES = 6  # of a stratum: a rank correlation of fewer says nothing


@dataclass(frozen=True)
class Agreement:
    """A rank correlation of two models, or its mean over pairs of models.

    Args:
        value: over the policies and examples there are.
        over_policies, over_examples, interval: 95 % limits by a bootstrap of policies, of images, or of both. Drawing
            images again adds noise, which lowers a rank correlation, so only the spread of the draws is used, on
            Fisher's scale.
        corrected: Spearman between halves with no image in common, over what a model's own halves reach; None where
            these hardly agree (below 0.1).
    """

    value: float
    over_policies: tuple[float, float]
    over_examples: tuple[float, float]
    interval: tuple[float, float]
    corrected: float | None


def spearman(a: Array, b: Array) -> float:
    """Return Spearman's rank correlation, ties at mean ranks; NaN where one does not vary."""
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread > 0 else float("nan")


def kendall(a: Array, b: Array) -> float:
    """Return Kendall's tau-b."""
    return float(kendalltau(a, b).statistic)


def within(strata: Array, statistic: Statistic = spearman) -> Statistic:
    """Return a statistic that compares policies of one stratum only: its mean over strata, weighted by policies.

    Args:
        strata: (P,) which stratum a policy is in; small ones are left out.
    """

    def found(a: Array, b: Array) -> float:
        values, weights = [], []
        for name in np.unique(strata):
            mine = strata == name
            value = statistic(a[mine], b[mine]) if mine.sum() >= LEAST_POLICIES else float("nan")
            if value == value:
                values.append(value)
                weights.append(mine.sum())
        return float(np.average(values, weights=weights)) if values else float("nan")

    return found


def agreement(
    models: Sequence[Array],
    pairs: Sequence[tuple[int, int]],
    strata: Array,
    images: Array,
    *,
    equal_cost: bool,
    statistic: Statistic = spearman,
    resamples: int = 400,
    splits: int = 50,
    seed: int = 0,
) -> Agreement:
    """Return the mean rank correlation of pairs of models.

    Args:
        models: (P, n) right answers of each, of the same policies and examples.
        pairs: which models are compared.
        strata: (P,) budget of each policy.
        images: (n,) image of each example; drawn whole.
        equal_cost: compare policies of one budget only.
        statistic: of two score vectors.
        resamples, splits, seed: of the bootstrap and of the halves.
    """
    clusters, index = np.unique(images, return_inverse=True)
    # right answers and examples by image: any draw of images is then a product
    right = [_by_image(model, index, len(clusters)) for model in models]
    counts = np.bincount(index, minlength=len(clusters)).astype(float)

    def measured(weights: Array, rows: Array) -> float:
        scores = [(r[rows] @ weights) / (counts @ weights) for r in right]
        rule = within(strata[rows], statistic) if equal_cost else statistic
        return _mean([rule(scores[a], scores[b]) for a, b in pairs])

    rng = np.random.default_rng(seed)
    every, once = np.arange(len(strata)), np.ones(len(clusters))
    draws: dict[str, list[float]] = {"policies": [], "examples": [], "both": []}
    for _ in range(resamples):
        rows = _resampled(strata, rng)
        weights = np.bincount(rng.integers(len(clusters), size=len(clusters)), minlength=len(clusters))
        draws["policies"].append(measured(once, rows))
        draws["examples"].append(measured(weights.astype(float), every))
        draws["both"].append(measured(weights.astype(float), rows))
    value = measured(once, every)
    return Agreement(
        value,
        limits(value, draws["policies"]),
        limits(value, draws["examples"]),
        limits(value, draws["both"]),
        _corrected(right, counts, pairs, within(strata) if equal_cost else spearman, splits, rng),
    )


def reliability(
    model: Array, strata: Array, images: Array, *, equal_cost: bool, splits: int = 50, seed: int = 0
) -> float:
    """Return what a second sample of as many examples would agree with the first, by Spearman and Brown from halves.

    Args:
        model, strata, images, equal_cost, splits, seed: as for `agreement`.
    """
    clusters, index = np.unique(images, return_inverse=True)
    right = _by_image(model, index, len(clusters))
    counts = np.bincount(index, minlength=len(clusters)).astype(float)
    rule = within(strata) if equal_cost else spearman
    rng = np.random.default_rng(seed)
    halves = [_halves(len(clusters), rng) for _ in range(splits)]
    r = _mean([rule(right @ a / (counts @ a), right @ b / (counts @ b)) for a, b in halves])
    return 2 * r / (1 + r)


def _corrected(
    right: Sequence[Array],
    counts: Array,
    pairs: Sequence[tuple[int, int]],
    rule: Statistic,
    splits: int,
    rng: np.random.Generator,
) -> float | None:
    """Return the correlation between halves over the geometric mean of each model's own, averaged over pairs."""
    used = sorted({i for pair in pairs for i in pair})
    own: dict[int, list[float]] = {i: [] for i in used}
    cross: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
    for _ in range(splits):
        one, other = _halves(len(counts), rng)
        first = {i: right[i] @ one / (counts @ one) for i in used}
        second = {i: right[i] @ other / (counts @ other) for i in used}
        for i in used:
            own[i].append(rule(first[i], second[i]))
        for a, b in pairs:
            cross[a, b] += [rule(first[a], second[b]), rule(second[a], first[b])]
    found = []
    for a, b in pairs:
        mine, theirs = _mean(own[a]), _mean(own[b])
        if min(mine, theirs) < 0.1:
            return None
        found.append(_mean(cross[a, b]) / np.sqrt(mine * theirs))
    return _mean(found)


def _by_image(model: Array, index: Array, clusters: int) -> Array:
    """Return sums of right answers, (P, clusters)."""
    return model.astype(float) @ np.eye(clusters)[index]


def _halves(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return two complementary masks of 0 and 1, each of half the images."""
    one = np.zeros(n)
    one[rng.permutation(n)[: n // 2]] = 1.0
    return one, 1.0 - one


def _resampled(strata: Array, rng: np.random.Generator) -> Array:
    """Return a draw of policies with replacement, as many of each stratum."""
    places = [np.flatnonzero(strata == name) for name in np.unique(strata)]
    return np.concatenate([rng.choice(p, len(p)) for p in places])


def _mean(values: Sequence[float]) -> float:
    there = [v for v in values if v == v]
    return float(np.mean(there)) if there else float("nan")


def limits(value: float, draws: Sequence[float]) -> tuple[float, float]:
    """Return value -/+ 1.96 standard deviations of the draws on Fisher's scale."""
    edge = 1 - 1e-9
    spread = np.arctanh(np.clip([v for v in draws if v == v], -edge, edge)).std(ddof=1)
    low, high = np.tanh(np.arctanh(np.clip(value, -edge, edge)) + np.array([-1.96, 1.96]) * spread)
    return float(low), float(high)
