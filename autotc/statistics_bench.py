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
BAR = (0.93, 0.97)
FALSE_ELIMINATION = 0.02
TITLES = {
    "share": "Share of right answers (Wilson's interval for clustered examples)",
    "difference": "Paired difference of two policies, 5 points apart (Student's interval on clustered errors)",
}
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


def run(
    runs: int = 1000, studies: int = 100, seed: int = 0, each: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Return the whole benchmark as plain JSON data.

    Args:
        runs: simulated data sets for each row of the coverage.
        studies: simulated for each row of the racing.
        seed: of the simulation.
        each: told what comes next.
    """
    from autotc.search.simulation import races

    raced = races(studies, seed, each=each)
    covered = coverage(runs, seed, each=each)
    members, lost = sum(r.members for r in raced), sum(r.lost for r in raced)
    held = [low_high(row) for row in covered]
    return {
        "seed": seed,
        "runs": runs,
        "studies": studies,
        "false_elimination": {
            "members": members,
            "lost": lost,
            "share": lost / members,
            "bar": FALSE_ELIMINATION,
        },
        "coverage_within": {"rows": len(held), "within": sum(held), "low": BAR[0], "high": BAR[1]},
        "racing": [asdict(row) for row in raced],
        "coverage": [asdict(row) for row in covered],
    }


def low_high(row: Coverage) -> bool:
    """Whether a coverage is between the bars, but for two standard errors of the simulation."""
    return BAR[0] - 2 * row.stderr <= row.coverage <= BAR[1] + 2 * row.stderr


def page(result: dict[str, Any]) -> str:
    """Return the benchmark as a page of Markdown."""
    lost, within = result["false_elimination"], result["coverage_within"]
    lines = [
        "# What the statistics promise, checked by simulation",
        "",
        "`autotc bench statistics --out studies/statistics` writes this page. Answers are right or wrong, those to one "
        "image go together, and so do those of two policies to one example.",
        "",
        "## Racing",
        "",
        f"Of {lost['members']} members of the fronts that {result['studies']} studies of each kind end with when "
        f"nothing is stopped early, racing loses {lost['lost']} ({100 * lost['share']:.2f} %; the bar is "
        f"{100 * lost['bar']:.0f} %). *Scatter* is the mean loss of a trial's true quality against the best at its "
        f"cost, at the start of a study; *saved* are evaluations of examples, of {result['racing'][0]['examples']} a "
        "trial. The closer the trials, the less there is to stop.",
        "",
        "| trials | questions an image | scatter | members | lost | trials stopped | saved |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['trials']} | {r['questions']} | {r['scatter']} | {r['members']} | {r['lost']} | {r['stopped']:.1%} | "
        f"{r['saved']:.1%} |"
        for r in result["racing"]
    ]
    lines += [
        "",
        "## Coverage of 95 % intervals",
        "",
        f"Share of {result['runs']} simulated data sets in which the interval holds the true value, in %; images have "
        f"{SIZES[0]} to {SIZES[1]} questions. Columns: the part of the latent variance that an image's answers share. "
        f"{within['within']} of {within['rows']} figures are within {100 * within['low']:.0f} to "
        f"{100 * within['high']:.0f} %, but for two standard errors of the simulation (about "
        f"{200 * (0.95 * 0.05 / result['runs']) ** 0.5:.1f} points); the others are in bold. They are where few images "
        "meet few wrong answers.",
    ]
    for what, title in TITLES.items():
        lines += ["", f"### {title}", "", "| n | images | quality | " + " | ".join(map(str, SHARED)) + " |"]
        lines += ["|---:|---:|---:|" + "---:|" * len(SHARED)]
        rows = [Coverage(**row) for row in result["coverage"] if row["what"] == what]
        for first in rows[:: len(SHARED)]:
            same = [r for r in rows if (r.n, r.quality) == (first.n, first.quality)]
            cells = [
                f"{100 * r.coverage:.1f}" if low_high(r) else f"**{100 * r.coverage:.1f}**" for r in same
            ]
            lines.append(f"| {first.n} | {first.images:.0f} | {first.quality} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
