"""Statistics of examples that come in clusters: questions of one image are not independent.

Everything here takes numbers and the cluster (image) of each. Means and paired differences get Student intervals
on clustered errors, other statistics a bootstrap of whole clusters, flips of right and wrong an exact test that
swaps whole clusters, several claims Holm's correction, and comparisons that are looked at while they go on an
e-process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
BETS = np.linspace(0.1, 0.9, 9)  # shares of its wealth that an e-process stakes, in equal parts

Array = np.ndarray


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval.

    Args:
        value: the estimate; NaN when there are no values.
        stderr: standard error, clustered; None with fewer than two clusters.
        low, high: confidence limits; None with fewer than two clusters.
        n: values.
        clusters: clusters they come from.
        level: asked coverage, e.g. 0.95.
    """

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    level: float = LEVEL


# --- means and paired differences ---


def clustered_error(residuals: Array, clusters: Array) -> float | None:
    """Return the standard error of a mean from its residuals, clustered; None with fewer than two clusters.

    The residuals of a cluster are summed before they are squared (Liang and Zeger 1986).

    Args:
        residuals: (n,) value minus mean.
        clusters: (n,) cluster of each.
    """
    names, index = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return None
    sums = np.bincount(index, weights=residuals, minlength=len(names))
    return float(np.sqrt((sums**2).sum() * len(names) / (len(names) - 1)) / len(residuals))


def mean(values: Array, clusters: Array) -> tuple[float, float | None, int]:
    """Return mean, clustered standard error and n of the values that are not NaN; n 0: there are none."""
    values, clusters = _there(values, clusters)
    if not len(values):
        return float("nan"), None, 0
    return float(values.mean()), clustered_error(values - values.mean(), clusters), len(values)


def interval(values: Array, clusters: Array, level: float = LEVEL) -> Interval:
    """Return the mean of the values that are not NaN with a Student interval on its clustered error.

    Args:
        values: (n,).
        clusters: (n,) cluster of each; one less than their number are the degrees of freedom.
        level: coverage.
    """
    value, stderr, n = mean(values, clusters)
    count = len(np.unique(_there(values, clusters)[1]))
    if stderr is None:
        return Interval(value, None, None, None, n, count, level)
    width = float(stats.t.ppf((1 + level) / 2, count - 1)) * stderr
    return Interval(value, stderr, value - width, value + width, n, count, level)


def share(values: Array, clusters: Array, level: float = LEVEL) -> Interval:
    """Return the mean of scores in [0, 1], NaN left out, with Wilson's interval for clustered examples.

    The number of examples in Wilson's formula is the one whose independent answers would have the clustered
    standard error, the quantile is Student's (Dean and Pagano, Survey Methodology 2015); the limits stay within
    [0, 1], and near it they hold the truth where those of `interval` do not. Where all values are the same, the
    examples count as many as there are clusters.
    """
    plain = interval(values, clusters, level)
    if plain.stderr is None:
        return plain
    p, t = plain.value, float(stats.t.ppf((1 + level) / 2, plain.clusters - 1))
    n = p * (1 - p) / plain.stderr**2 if plain.stderr > 0 else plain.clusters
    centre = (p + t**2 / (2 * n)) / (1 + t**2 / n)
    width = t / (1 + t**2 / n) * float(np.sqrt(p * (1 - p) / n + t**2 / (4 * n**2)))
    low, high = max(0.0, centre - width), min(1.0, centre + width)
    return replace(plain, low=min(low, p), high=max(high, p))


def paired(one: Array, other: Array, clusters: Array, level: float = LEVEL) -> Interval:
    """Return the mean of `one` minus `other`, example by example, with its Student interval.

    Scores lie in [0, 1]; for other figures give their differences to `interval`. The limits (not the value and its
    standard error) are computed with one more example that each side wins, as clusters of their own, after Agresti
    and Min (Statistics in Medicine 2005): with few flips the plain ones are too narrow, and with none they have
    no width at all.
    """
    found, clusters = _there(np.asarray(one, float) - np.asarray(other, float), clusters)
    plain = interval(found, clusters, level)
    if plain.stderr is None:
        return plain
    index = np.unique(clusters, return_inverse=True)[1]
    wide = interval(np.append(found, [1.0, -1.0]), np.append(index, plain.clusters + np.arange(2)), level)
    assert wide.stderr is not None
    width = float(stats.t.ppf((1 + level) / 2, plain.clusters - 1)) * wide.stderr
    return replace(plain, low=wide.value - width, high=wide.value + width)


def p_value(found: Interval, null: float = 0.0) -> float | None:
    """Return the two-sided p value that fits a Student interval: below 1 - level just when it leaves `null` out.

    Args:
        found: from `interval`, `paired` or `simultaneous`; not from `share` or a bootstrap.
        null: the value in question.

    Returns:
        None where there is no interval.
    """
    centre_error = _student(found)
    if centre_error is None:
        return None
    centre, error = centre_error
    return p_of(centre - null, error, found.clusters)


def p_of(difference: float, stderr: float | None, clusters: int) -> float:
    """Return the two-sided p value of a difference from its clustered standard error; 1 where there is no error."""
    if stderr is None or clusters < 2:
        return 1.0
    if stderr == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.t.sf(abs(difference) / stderr, clusters - 1))


def _student(found: Interval) -> tuple[float, float] | None:
    """Return centre and standard error of a Student interval."""
    if found.low is None or found.high is None:
        return None
    quantile = float(stats.t.ppf((1 + found.level) / 2, found.clusters - 1))
    return (found.low + found.high) / 2, (found.high - found.low) / (2 * quantile)


def detectable(
    spread: float, clusters: int, claims: int = 1, power: float = 0.8, level: float = LEVEL
) -> float:
    """Return the smallest true difference that a paired comparison will probably show.

    Args:
        spread: standard error of the difference times the root of the number of clusters.
        clusters: at least 2.
        claims: comparisons made together (Bonferroni).
        power: probability of showing it.
        level: confidence of all claims together.
    """
    alpha = (1 - level) / claims
    steps = stats.t.ppf(1 - alpha / 2, clusters - 1) + stats.t.ppf(power, clusters - 1)
    return float(steps * spread / np.sqrt(clusters))


# --- bootstrap ---


def bootstrap(
    values: Array,
    clusters: Array,
    statistic: Callable[[Array], float] = np.mean,
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a statistic of the values that are not NaN with its bootstrap interval; see `bootstrap_of`."""
    values, clusters = _there(values, clusters)
    if statistic is not np.mean:
        return bootstrap_of({"x": values}, clusters, lambda c: statistic(c["x"]), level, resamples, seed)
    names, index = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(index, weights=values), np.bincount(index)
    drawn = _draws(len(names), resamples, seed)
    found = sums[drawn].sum(1) / sizes[drawn].sum(1) if len(names) > 1 else np.empty(0)
    value = float(values.mean()) if len(values) else float("nan")
    return _percentile(value, found, len(values), len(names), level)


def bootstrap_of(
    columns: Mapping[str, Array],
    clusters: Array,
    statistic: Callable[[dict[str, Array]], float],
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a statistic of several columns with an interval from resampling whole clusters.

    The percentiles are widened as a Student interval is against a normal one ("expanded percentile", Hesterberg,
    The American Statistician 2015), since the plain ones are too narrow with few clusters.

    Args:
        columns: arrays of n entries each.
        clusters: (n,) cluster of each entry.
        statistic: takes resampled columns of equal length; resamples where it gives NaN are left out.
        level: coverage.
        resamples, seed: of the bootstrap.
    """
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    clusters = np.asarray(clusters)
    names, index = np.unique(clusters, return_inverse=True)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    value, found = float(statistic(arrays)), []
    if len(names) > 1:
        for drawn in _draws(len(names), resamples, seed):
            rows = np.concatenate([members[i] for i in drawn])
            found.append(float(statistic({name: column[rows] for name, column in arrays.items()})))
    return _percentile(value, np.array(found), len(clusters), len(names), level)


def _draws(clusters: int, resamples: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, max(1, clusters), (resamples, clusters))


def _percentile(value: float, found: Array, n: int, clusters: int, level: float) -> Interval:
    found = found[~np.isnan(found)]
    if clusters < 2 or len(found) < 2:
        return Interval(value, None, None, None, n, clusters, level)
    wider = np.sqrt(clusters / (clusters - 1))
    tail = stats.norm.cdf(-wider * stats.t.ppf((1 + level) / 2, clusters - 1))
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(value, float(found.std(ddof=1) * wider), float(low), float(high), n, clusters, level)


# --- right and wrong ---


def mcnemar(one: Array, other: Array, clusters: Array | None = None) -> float:
    """Return the exact two-sided p value that right answers and wrong ones flip as often one way as the other.

    Without clusters this is McNemar's exact test. With clusters it is the exact randomisation form of the test for
    clustered matched pairs of Yang, Sun and Hardin (Statistics in Medicine 2010): the sum of flips, where under
    the null hypothesis the net flips of each whole cluster are as likely with the other sign. Clusters of one
    example give McNemar's test back.

    Args:
        one, other: (n,) scores; a flip is an example where they differ.
        clusters: (n,) cluster of each.
    """
    flips = np.sign(np.asarray(one, float) - np.asarray(other, float))
    there = ~np.isnan(flips)
    index = np.arange(len(flips)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    nets = np.abs(np.bincount(index[there], weights=flips[there])).astype(int)
    distance = int(abs(flips[there].sum()))
    distribution = np.ones(1)  # of the sum over clusters with random signs, on -total..total
    for net, times in zip(*np.unique(nets[nets > 0], return_counts=True), strict=True):
        steps = np.zeros(2 * net * times + 1)
        steps[:: 2 * net] = stats.binom.pmf(np.arange(times + 1), times, 0.5)
        distribution = np.convolve(distribution, steps)
    total = len(distribution) // 2
    far = np.abs(np.arange(-total, total + 1)) >= distance
    return float(min(1.0, distribution[far].sum()))


# --- several claims ---


def holm(p_values: Sequence[float] | Array) -> Array:
    """Return p values adjusted for the number of claims made together (Holm 1979).

    Calling those below 0.05 clear is wrong about any of them with probability at most 5 %, however the claims
    depend on one another.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    adjusted = np.empty_like(p)
    adjusted[order] = steps
    return adjusted


def simultaneous(found: Sequence[Interval], level: float = LEVEL) -> list[Interval]:
    """Return intervals from `interval` or `paired`, widened to hold all together with the level (Bonferroni).

    Whatever the claims depend on, all of these intervals hold their true values with probability `level`; each has
    the level of its own that this takes. Holm's test finds clear every difference whose interval here leaves zero
    out, and by its later steps possibly more.
    """
    one = 1 - (1 - level) / max(1, len(found))
    wide = []
    for x in found:
        low = high = None
        if (centre_error := _student(x)) is not None:
            centre, error = centre_error
            width = float(stats.t.ppf((1 + one) / 2, x.clusters - 1)) * error
            low, high = centre - width, centre + width
        wide.append(replace(x, low=low, high=high, level=one))
    return wide


# --- while it goes on ---


def e_value(differences: Array, sizes: Array | None = None, population: int | None = None) -> float:
    """Return the evidence that differences are above zero on average; it may be looked at after any of them.

    It is the wealth of someone who bets fixed shares of it on each difference (Waudby-Smith and Ramdas, JRSS B
    2024): if the mean is at most zero, it ever reaches 1 / alpha with probability at most alpha. With a
    population, that mean is the one of the whole population, which is met in random order without replacement
    (same authors, NeurIPS 2020): what the rest would have to make up for is then part of every bet, and the evidence
    is infinite once the rest cannot.

    Args:
        differences: (n,) sums over clusters, within -size and size, in the order in which they were met.
        sizes: (n,) examples of each; 1 by default.
        population: examples there are in all; None for no end of them.
    """
    x = np.asarray(differences, float)
    size = np.ones(len(x)) if sizes is None else np.asarray(sizes, float)
    null = np.zeros(len(x))  # mean of what is still to come, if the whole has the mean zero
    if population is not None:
        rest = population - np.append(0.0, np.cumsum(size))
        gained = np.append(0.0, np.cumsum(x))
        past = np.divide(-gained, rest, out=np.where(gained > 0, -np.inf, np.inf), where=rest > 0)
        if (past <= -1).any():
            return float("inf")
        null = np.minimum(past[:-1], 1.0)
    if not len(x):
        return 1.0
    bets = (x - size * null) / (size.max() * (1 + null))
    return float(np.exp(np.log1p(BETS[:, None] * bets).sum(axis=1)).mean())


def confidence_sequence(differences: Array, alpha: float = 0.05, steps: int = 400) -> tuple[Array, Array]:
    """Return limits of the mean difference that hold at every n together, with probability 1 - alpha.

    They are the means against which the bets of `e_value` (without a population) have not reached 2 / alpha, rounded
    outwards to a grid.

    Args:
        differences: (n,) in [-1, 1], independent, in the order in which they were met.
        alpha: probability that the mean ever lies outside.
        steps: points of the grid in [0, 1].

    Returns:
        (low, high), each (n,).
    """
    x = np.asarray(differences, float)
    return _lower(x, alpha / 2, steps), -_lower(-x, alpha / 2, steps)


def _log_wealth(differences: Array, null: float = 0.0) -> Array:
    """Return the log of the wealth after each difference, (n,), betting that their mean is above `null`."""
    x = (np.asarray(differences, float) - null) / (1 + null)
    return np.logaddexp.reduce(np.cumsum(np.log1p(BETS[:, None] * x), axis=1), axis=0) - np.log(len(BETS))


def _lower(x: Array, alpha: float, steps: int) -> Array:
    low = np.full(len(x), -1.0)
    for null in np.linspace(-1, 1, 2 * steps + 1)[1:]:  # wealth falls as the null rises
        beaten = np.maximum.accumulate(_log_wealth(x, float(null))) >= np.log(1 / alpha)
        if not beaten.any():
            break
        low[beaten] = null
    return low


def _there(values: Any, clusters: Any) -> tuple[Array, Array]:
    values, clusters = np.asarray(values, float), np.asarray(clusters)
    return values[~np.isnan(values)], clusters[~np.isnan(values)]
