"""Comparing a proxy with the published tables: concordance, chance, what sources agree on, ranks and errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from scipy import stats

from autotc import statistics
from autotc.calibration.methods import published_on
from autotc.calibration.published import BUDGETS, Duel, Entry, Settled
from autotc.calibration.run import Measured
from autotc.statistics import Interval

Values = Mapping[tuple[str, float], float]  # by method and budget
Predictor = Callable[
    [str, str, float], float
]  # first, second, budget -> 1 first is better, 0 second, 0.5 neither

LEAST_CONCORDANCE = 0.8
LEAST_PAIRS = 10
ALPHA = 0.05
SHUFFLES = 100_000
EXACT_UP_TO = 9  # methods; 9! = 362,880 permutations
RESAMPLES = 10_000
NOTHING = Interval(math.nan, None, None, None, 0, 0)


def retentions(measured: Measured) -> dict[tuple[str, float], Interval]:
    """Return accuracy over the uncompressed proxy's, in %, by method and budget; several draws are averaged first.

    The interval is that of a ratio of two means of the same examples (delta method), clustered by image.
    """
    full = measured.full.astype(float)
    found = {}
    for key in dict.fromkeys(zip(measured.method.tolist(), measured.budget.tolist(), strict=True)):
        mine = (measured.method == key[0]) & (measured.budget == key[1])
        right = measured.correct[mine].mean(0)
        ratio = right.mean() / full.mean()
        # residuals of the ratio around it, so their mean is the ratio
        found[key[0], _budget(key[1])] = statistics.interval(
            100 * (ratio + (right - ratio * full) / full.mean()), measured.image
        )
    return found


def _budget(value: float) -> float:
    return min(BUDGETS, key=lambda b: abs(b - value))


def by_value(values: Values) -> Predictor:
    """Return the predictor that has the method with the larger value ahead."""
    return lambda first, second, budget: _sign(values[first, budget] - values[second, budget])


def newer(first: str, second: str, budget: float) -> float:
    """Predict that the method whose first version is newer (year and month) is better; baselines are oldest."""
    return _sign((published_on(first) > published_on(second)) - (published_on(first) < published_on(second)))


def _sign(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


@dataclass(frozen=True)
class Case:
    """One thing to predict: that `winner` is ahead of `loser`, and how a held-out source has it (1, 0 or 0.5)."""

    budget: float
    winner: str
    loser: str
    source: str = ""
    agrees: float = math.nan


def cases(settled: Iterable[Settled]) -> list[Case]:
    """Return the yardstick as cases."""
    return [Case(s.budget, s.winner, s.loser) for s in settled]


def decided(found: Iterable[Duel]) -> list[Case]:
    """Return every decision of a table as a case of its source."""
    out = []
    for one in found:
        if one.decided:
            winner, loser = one.pair if one.decided > 0 else one.pair[::-1]
            out.append(Case(one.budget, winner, loser, one.source, 1.0))
    return out


def held_out(found: Sequence[Duel]) -> list[Case]:
    """Return, for each source and pair that it has, what the others decide with one voice and whether it agrees."""
    groups: dict[tuple[float, tuple[str, str]], list[Duel]] = {}
    for one in found:
        groups.setdefault((one.budget, one.pair), []).append(one)
    out = []
    for (budget, pair), members in groups.items():
        for source in sorted({m.source for m in members}):
            ways = {m.decided for m in members if m.source != source and m.decided}
            if len(ways) != 1:
                continue
            way = ways.pop()
            mine = [_sign(m.better * way) for m in members if m.source == source]
            winner, loser = pair if way > 0 else pair[::-1]
            out.append(Case(budget, winner, loser, source, sum(mine) / len(mine)))
    return out


def scores(found: Sequence[Case], predict: Predictor) -> np.ndarray:
    """Return 1, 0 or 0.5 a case: whether the predictor has the winner ahead."""
    return np.array([predict(c.winner, c.loser, c.budget) for c in found])


def share(found: Sequence[Case], values: np.ndarray, seed: int = 0) -> Interval:
    """Return the mean of a figure of each case with its interval, by resampling methods: cases that share a method
    are not independent.

    A case weighs as often as both of its methods are drawn; resamples without any case are left out.
    """
    names = sorted({name for c in found for name in (c.winner, c.loser)})
    if not found:
        return NOTHING
    at = {name: i for i, name in enumerate(names)}
    first, second = (np.array([at[getattr(c, side)] for c in found]) for side in ("winner", "loser"))
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), RESAMPLES
    )
    weight = drawn[:, first] * drawn[:, second]
    total = weight.sum(1)
    means = (weight @ values)[total > 0] / total[total > 0]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(
        float(values.mean()), float(means.std(ddof=1)), float(low), float(high), len(found), len(names)
    )


def chance(found: Sequence[Case], values: Values, seed: int = 0) -> tuple[float, int, bool]:
    """Return the share of relabellings of the methods that agree with at least as many cases, how many relabellings,
    and whether they were all there are.

    A method keeps its values at all budgets together; the methods are those of the cases.
    """
    names = sorted({name for c in found for name in (c.winner, c.loser)})
    budgets = sorted({c.budget for c in found})
    table = np.array([[values[name, b] for b in budgets] for name in names])
    at = {name: i for i, name in enumerate(names)}
    first, second = (np.array([at[getattr(c, side)] for c in found]) for side in ("winner", "loser"))
    column = np.array([budgets.index(c.budget) for c in found])
    # what each two rows score on each budget, so that a relabelling is a look-up
    gap = table[:, None] - table[None]
    score = np.where(gap == 0, 0.5, gap > 0)
    exact = len(names) <= EXACT_UP_TO
    if exact:
        orders = np.array(list(permutations(range(len(names)))))
    else:
        rng = np.random.default_rng(seed)
        drawn = rng.permuted(np.tile(np.arange(len(names)), (SHUFFLES, 1)), axis=1)
        orders = np.vstack((np.arange(len(names)), drawn))
    totals = score[orders[:, first], orders[:, second], column].sum(1)
    return float((totals >= totals_of(score, first, second, column)).mean()), len(orders), exact


def power(found: Sequence[Case], most: int = 3) -> list[tuple[int, float]]:
    """Return the p values of the best scores that an order of the methods can have, when it is one for all budgets.

    Empty without cases, and with more methods than can be gone through.
    """
    names = sorted({name for c in found for name in (c.winner, c.loser)})
    if not 0 < len(names) <= EXACT_UP_TO:
        return []
    at = {name: i for i, name in enumerate(names)}
    first, second = (np.array([at[getattr(c, side)] for c in found]) for side in ("winner", "loser"))
    orders = np.array(list(permutations(range(len(names)))))
    totals = (orders[:, first] > orders[:, second]).sum(1)
    return [(int(k), float((totals >= k).mean())) for k in sorted(set(totals.tolist()), reverse=True)[:most]]


def totals_of(score: np.ndarray, first: np.ndarray, second: np.ndarray, column: np.ndarray) -> float:
    """Return how many cases the methods score under their own names."""
    return float(score[first, second, column].sum())


def kendall(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, bool]:
    """Return Kendall's tau-b, its two-sided p value, and whether that is exact.

    Exact without ties, and with ties up to nine entries by going through all orders.
    """
    x, y = np.asarray(one, float), np.asarray(other, float)
    tied = len(np.unique(x)) < len(x) or len(np.unique(y)) < len(y)
    if not tied or len(x) > EXACT_UP_TO:
        found = stats.kendalltau(x, y, method="asymptotic" if tied else "exact")
        return float(found.statistic), float(found.pvalue), not tied
    tau = float(stats.kendalltau(x, y).statistic)
    if math.isnan(tau):
        return tau, 1.0, True
    i, j = np.triu_indices(len(x), 1)
    orders = np.array(list(permutations(range(len(x)))))
    shuffled = np.sign(y[orders[:, i]] - y[orders[:, j]]) @ np.sign(x[i] - x[j])
    observed = np.sign(y[i] - y[j]) @ np.sign(x[i] - x[j])
    return tau, float((np.abs(shuffled) >= abs(observed) - 1e-9).mean()), True


@dataclass(frozen=True)
class Ranking:
    """Kendall's tau-b between two rankings of the methods that both have at a budget."""

    source: str
    table: str
    budget: float
    methods: int
    tau: float
    p: float
    exact: bool


def table_means(rows: Sequence[Entry]) -> dict[str, float]:
    """Return mean retention by method of one table at one share, over the columns that all its rows have."""
    shared = set.intersection(*(set(r.retention) for r in rows))
    return {r.method: sum(r.retention[c] for c in shared) / len(shared) for r in rows} if shared else {}


def rankings(rows: Iterable[Entry], values: Values, least: int = 4) -> list[Ranking]:
    """Compare the proxy's order with that of each table at each share, from four common methods on.

    The authors' own rows are left out, as everywhere.
    """
    cells: dict[tuple[str, float], list[Entry]] = {}
    for row in rows:
        if row.independent and row.budget is not None and (row.method, row.budget) in values:
            cells.setdefault((row.table, row.keep), []).append(row)
    out = []
    for (table, _), members in cells.items():
        means, budget = table_means(members), members[0].budget
        assert budget is not None
        if len(means) >= least:
            tau, p, exact = kendall([values[m, budget] for m in means], list(means.values()))
            out.append(Ranking(members[0].source, table, budget, len(means), tau, p, exact))
    return out


@dataclass(frozen=True)
class Miss:
    """A published mean retention and the proxy's, in %."""

    method: str
    budget: float
    source: str
    table: str
    published: float
    proxy: float


def misses(rows: Iterable[Entry], values: Values, within: float = 0.1) -> list[Miss]:
    """Return published and proxy retention of each independent row whose share is within 10 % of the budget."""
    return [
        Miss(r.method, r.budget, r.source, r.table, r.mean, values[r.method, r.budget])
        for r in rows
        if r.independent
        and r.budget is not None
        and abs(r.keep / r.budget - 1) <= within
        and (r.method, r.budget) in values
        and "_csv_" not in r.table
    ]


def errors(found: Sequence[Miss], by: Callable[[Miss], str], least: int = 1) -> dict[str, Interval]:
    """Return the mean absolute error in points by some key, intervals by resampling methods where there are two."""
    groups: dict[str, list[Miss]] = {}
    for m in found:
        groups.setdefault(by(m), []).append(m)
    return {
        key: statistics.bootstrap(
            np.array([abs(m.proxy - m.published) for m in members]), np.array([m.method for m in members])
        )
        for key, members in groups.items()
        if len(members) >= least
    }


def between_sources(found: Sequence[Miss]) -> Interval:
    """Return by how many points two sources differ on one method at one budget, mean absolute."""
    gaps, names = [], []
    cells: dict[tuple[str, float], list[Miss]] = {}
    for m in found:
        cells.setdefault((m.method, m.budget), []).append(m)
    for (method, _), members in cells.items():
        for one, other in combinations(members, 2):
            if one.source != other.source:
                gaps.append(abs(one.published - other.published))
                names.append(method)
    return statistics.bootstrap(np.array(gaps), np.array(names)) if gaps else NOTHING
