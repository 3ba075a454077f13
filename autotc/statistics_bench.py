"""Whether the statistics keep what they promise, by simulation with answers that depend on their image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from autotc import statistics

LEVEL = statistics.LEVEL
EXAMPLES = (128, 256, 512, 1024)
QUALITIES = (0.5, 0.7, 0.9, 0.95, 0.98)
SHARED = (0.0, 0.1, 0.3, 0.6)  # of the variance of what makes an answer right, common to an image
SIZES = (2, 8)  # questions an image, uniform
ALIKE = 0.3  # of the same variance, common to all policies on an example, beside the image's


@dataclass(frozen=True)
class Coverage:
    """How often a 95 % interval holds the true value.

    Args:
        what: share (of right answers) or difference (of two policies, paired).
        n, images: examples asked for, and mean number of images they come from.
        quality: true share of right answers (of the better policy).
        shared: of the latent variance, common to an image.
        coverage: share of the runs in which the interval holds the true value.
        stderr: of that share.
        width: mean width of the interval.
    """

    what: str
    n: int
    images: float
    quality: float
    shared: float
    coverage: float
    stderr: float
    width: float


def images(rng: np.random.Generator, n: int, sizes: tuple[int, int] = SIZES) -> np.ndarray:
    """Return the image of each of n examples, 0-based and in order.

    Args:
        sizes: fewest and most questions an image; the last image has what is left.
    """
    questions = rng.integers(sizes[0], sizes[1] + 1, n)
    return np.repeat(np.arange(n), questions)[:n]


def answers(
    rng: np.random.Generator,
    image: np.ndarray,
    qualities: Sequence[float],
    shared: float,
    alike: float = ALIKE,
) -> np.ndarray:
    """Return right (1) and wrong (0) answers of policies, (policies, n).

    An answer is right when a normal variable, made of a part of the image, a part of the example and a part of
    policy and example, is below the quantile of the policy's quality.

    Args:
        image: (n,) of each example, 0-based.
        qualities: true share of right answers of each policy.
        shared: of the variance, common to an image.
        alike: of the variance, common to all policies on an example.
    """
    n = len(image)
    common = np.sqrt(shared) * rng.normal(size=image.max() + 1)[image] + np.sqrt(alike) * rng.normal(size=n)
    own = np.sqrt(1 - shared - alike) * rng.normal(size=(len(qualities), n))
    return (common + own < stats.norm.ppf(np.asarray(qualities))[:, None]).astype(float)


def coverage(
    runs: int = 2000,
    seed: int = 0,
    examples: Sequence[int] = EXAMPLES,
    each: Callable[[str], None] = lambda line: None,
) -> list[Coverage]:
    """Return how often intervals of a share and of a paired difference hold the truth.

    Args:
        runs: simulated data sets a row.
        seed: of the simulation.
        examples: sizes of the data sets.
        each: told what comes next.
    """
    rng = np.random.default_rng(seed)
    found = []
    for n in examples:
        each(f"coverage with {n} examples ...")
        for quality in QUALITIES:
            for shared in SHARED:
                found += _coverage(rng, runs, n, quality, shared)
    return found


def _coverage(rng: np.random.Generator, runs: int, n: int, quality: float, shared: float) -> list[Coverage]:
    other = quality - 0.05
    truth = {"share": quality, "difference": quality - other}
    hits, widths, clusters = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0), 0
    for _ in range(runs):
        image = images(rng, n)
        one, two = answers(rng, image, (quality, other), shared)
        made = {"share": statistics.share(one, image), "difference": statistics.paired(one, two, image)}
        clusters += made["share"].clusters
        for what, x in made.items():
            assert x.low is not None and x.high is not None  # there are always many images
            hits[what] += x.low <= truth[what] <= x.high
            widths[what] += x.high - x.low
    rows = []
    for what in truth:
        share = hits[what] / runs
        error = float(np.sqrt(share * (1 - share) / runs))
        rows.append(Coverage(what, n, clusters / runs, quality, shared, share, error, widths[what] / runs))
    return rows


def run(runs: int = 2000, seed: int = 0, each: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Return the whole benchmark as plain JSON data."""
    return {"runs": runs, "seed": seed, "coverage": [asdict(row) for row in coverage(runs, seed, each=each)]}
