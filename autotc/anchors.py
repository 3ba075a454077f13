"""How far a family's proxy can be trusted for one model: anchor policies measured on both, and what follows.

Anchors are spread over three budgets of equal exact cost, over sites and over methods: baselines, published
recipes, and points of the search's own space. The proxy runs them on the built-in task (its vocabulary holds
nothing else), the model on the user's data. What is compared is what a policy loses against the uncompressed model
on the same examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from autotc.leaderboard import Entry
from autotc.reducer import reducers

ANCHORS = 20
LEAST_ANCHORS = 6
PROXY_EXAMPLES = 256
GROUPS = ("baseline", "projector", "decoder", "vision", "proposal", "several")
BASELINES = ("random", "downsample")
PROPOSAL = ""  # the reducer of an entry that is a point of the search's space
LEVEL = 0.95
RESAMPLES = 2000
USEFUL, DOUBTFUL = 0.5, 0.3  # screening needs a correlation above the one and an interval above the other

Array = np.ndarray


# --- which policies ---


def group(entry: Entry) -> str:
    """Return what kind of anchor an entry is: a baseline, a site, several sites, or a proposal of the search."""
    assert entry.policy is not None
    if entry.reducer in BASELINES:
        return "baseline"
    if entry.reducer == PROPOSAL:
        return "proposal"
    sites = {stage.site for stage in entry.policy.stages}
    return sites.pop() if len(sites) == 1 else "several"


def choose(entries: Sequence[Entry], n: int) -> list[Entry]:
    """Return `n` anchors, fewer where there are no more; the first of more are those of fewer.

    Kinds and budgets take turns. Within a kind, methods that are not there yet come first, the oldest papers
    before the others: those are the methods that most is known about.

    Args:
        entries: at several shares of the tokens, each share at one exact cost.
        n: how many.
    """
    left = {entry.policy.id: entry for entry in entries if entry.policy is not None}
    shares = sorted({entry.share for entry in left.values()}, reverse=True)
    found: list[Entry] = []
    while left and len(found) < n:
        turn, kind = divmod(len(found), len(GROUPS))
        share = shares[(turn + kind) % len(shares)]
        used = [entry.reducer for entry in found]

        def order(entry: Entry, kind: str = GROUPS[kind], share: float = share, used: Any = used) -> Any:
            cls = reducers.get(entry.reducer) if entry.reducer else None
            paper = cls.source.arxiv if cls is not None and cls.source.arxiv else "9999"
            once = 0 if entry.reducer == PROPOSAL else used.count(entry.reducer)
            return group(entry) != kind, entry.share != share, once, paper, entry.label, -entry.share

        best = min(left.values(), key=order)
        found.append(left.pop(best.policy.id))  # type: ignore[union-attr]
    return found


# --- how the two agree ---


@dataclass(frozen=True)
class Losses:
    """What anchors lose against the uncompressed model, by example.

    Args:
        values: (anchors, examples) score less that of the uncompressed model.
        images: (examples,) image of each example: examples of one image are drawn together.
    """

    values: Array
    images: Array

    @staticmethod
    def read(columns: Sequence[Mapping[str, Sequence[Any]]]) -> Losses:
        """Read the stored columns of anchors that were measured on the same examples."""
        scores = [np.array(c["correct"], float) - np.array(c["full"], float) for c in columns]
        return Losses(np.array(scores), np.array(columns[0]["image"]))

    def means(self) -> Array:
        """Return the mean loss of each anchor, (anchors,)."""
        return self.values.mean(axis=1)

    def drawn(self, rng: np.random.Generator, resamples: int) -> Array:
        """Return mean losses on images drawn with replacement, (resamples, anchors)."""
        names, index = np.unique(self.images, return_inverse=True)
        sums = np.zeros((len(names), len(self.values)))
        np.add.at(sums, index, self.values.T)
        sizes = np.bincount(index)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        return (counts @ sums) / (counts @ sizes)[:, None]


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its 95 % interval; None where it is not defined."""

    rho: float | None
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """Write it as '0.81 [0.60, 0.90]'."""
        if self.rho is None:
            return "not defined"
        if self.low is None or self.high is None:
            return f"{self.rho:.2f}"
        return f"{self.rho:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Agreement:
    """How a proxy orders the anchors beside the model.

    Args:
        overall: Spearman's rho over all anchors.
        equal_cost: the same with ranks taken within each budget: what is left when cost does not help.
        n: anchors.
        line: predicts the model's loss from the proxy's.
    """

    overall: Correlation
    equal_cost: Correlation
    n: int
    line: Line

    @property
    def screens(self) -> bool:
        """Whether the proxy may screen proposals: rho at equal cost at least 0.5, its interval above 0.3."""
        it = self.equal_cost
        return it.rho is not None and it.low is not None and it.rho >= USEFUL and it.low > DOUBTFUL

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        if self.overall.rho is None:
            return (
                f"The {self.n} anchors lose the same on one of the two models: nothing can be said about their "
                "order. More --examples may tell them apart"
            )
        told = (
            f"On your model and data the proxy orders policies with rho = {self.overall.text}, n = {self.n} anchors, "
            f"and with {self.equal_cost.text} at equal cost"
        )
        if self.screens:
            return (
                f"{told}: good enough to screen proposals before the model runs them, "
                "not to replace measuring what you will serve"
            )
        why = "too low" if (self.equal_cost.rho or 0.0) < USEFUL else "too uncertain"
        return (
            f"{told}: {why} to choose by; search with --evaluate-on full, where the model runs every proposal"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "screens": self.screens, "verdict": self.verdict}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Agreement:
        """Read what `as_dict` gave."""
        return Agreement(
            Correlation(**data["overall"]),
            Correlation(**data["equal_cost"]),
            data["n"],
            Line(**data["line"]),
        )


@dataclass(frozen=True)
class Line:
    """Least squares of the model's loss on the proxy's, over n anchors.

    Args:
        slope, intercept: of the line.
        sd: of the residuals, n - 2 degrees of freedom.
        mean, spread: of the proxy's losses: mean and sum of squares about it.
        n: anchors.
    """

    slope: float
    intercept: float
    sd: float
    mean: float
    spread: float
    n: int

    @staticmethod
    def fit(proxy: Array, model: Array) -> Line:
        """Fit the line; with no spread in the proxy's losses it is flat."""
        n, mean = len(proxy), float(proxy.mean())
        spread = float(((proxy - mean) ** 2).sum())
        slope = float(((proxy - mean) * model).sum() / spread) if spread > 0 else 0.0
        intercept = float(model.mean()) - slope * mean
        left = model - (intercept + slope * proxy)
        return Line(slope, intercept, float(np.sqrt((left**2).sum() / (n - 2))), mean, spread, n)

    def predict(self, loss: float) -> tuple[float, float]:
        """Return the model's expected loss for one on the proxy, and the standard deviation of a new one about it."""
        away = (loss - self.mean) ** 2 / self.spread if self.spread > 0 else 0.0
        return self.intercept + self.slope * loss, self.sd * float(np.sqrt(1 + 1 / self.n + away))

    def bound(self, level: float = LEVEL) -> float:
        """Return how many standard deviations a one-sided prediction bound is away."""
        return float(stats.t.ppf(level, self.n - 2))


def agreement(
    model: Losses, proxy: Losses, shares: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> Agreement:
    """Return how the orders agree, with intervals from drawing anchors within their budgets, and images, again.

    The images of the two data sets are drawn apart, those of one together for all anchors, since all were measured
    on the same ones.

    Args:
        model, proxy: losses of the same anchors.
        shares: (anchors,) names the budget of each.
    """
    x, y, budgets = proxy.means(), model.means(), np.asarray(shares)
    rng = np.random.default_rng(seed)
    many_x, many_y = proxy.drawn(rng, resamples), model.drawn(rng, resamples)
    blocks = [np.flatnonzero(budgets == share) for share in np.unique(budgets)]
    picks = np.concatenate([b[rng.integers(0, len(b), (resamples, len(b)))] for b in blocks], axis=1)
    many_x, many_y = (np.take_along_axis(many, picks, axis=1) for many in (many_x, many_y))
    order = np.concatenate(blocks)
    ends = np.cumsum([len(b) for b in blocks])[:-1]
    found = []
    for cuts in ([], list(ends)):
        rho = _rank_correlation(x[order][None], y[order][None], cuts)[0]
        again = _rank_correlation(many_x, many_y, cuts)
        again = again[~np.isnan(again)]
        low, high = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(again) > 1 else (None, None)
        plain = [None if v is None or np.isnan(v) else float(v) for v in (rho, low, high)]
        found.append(Correlation(*plain) if plain[0] is not None else Correlation(None, None, None))
    return Agreement(found[0], found[1], len(x), Line.fit(x, y))


def _rank_correlation(x: Array, y: Array, cuts: Sequence[int]) -> Array:
    """Return Spearman's rho of each row; with cuts, ranks are taken and centred within the pieces between them."""

    def ranks(values: Array) -> Array:
        pieces = [stats.rankdata(piece, axis=1) for piece in np.split(values, cuts, axis=1)]
        return np.concatenate([piece - piece.mean(axis=1, keepdims=True) for piece in pieces], axis=1)

    a, b = ranks(x), ranks(y)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    with np.errstate(invalid="ignore"):
        return np.where(scale > 0, (a * b).sum(axis=1) / scale, np.nan)
