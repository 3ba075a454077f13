"""What a study may claim from held-out data, how sure that is, and what the data could show at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotc._outcomes import Outcomes, shared
from autotc.statistics import LEVEL, detectable, holm, mcnemar, p_value, paired, simultaneous

LEAST_IMAGES = 20  # with fewer, 95 % intervals are not known to hold
CLAIMS = 4  # of a usual report: the best preset, random tokens, smaller images, the uncompressed model
POWER = 0.8
SPREAD = 0.5  # median over 409 paired differences from random tokens in studies/leaderboard (0.50 and 0.51 a model)


@dataclass(frozen=True)
class Comparison:
    """A member of the front and a reference that costs no less, with their outcomes on held-out examples.

    Args:
        trial: number of the member: the best on selection among those within the rival's exact cost.
        rival: label of the reference.
        why: how the rival was chosen.
        cost, rival_cost: TFLOP per 1,000 requests by the exact convention.
        one, other: outcomes of the member and of the rival.
    """

    trial: int
    rival: str
    why: str
    cost: float
    rival_cost: float
    one: Outcomes
    other: Outcomes


@dataclass(frozen=True)
class Claim:
    """The best member of the front against one reference that costs no less, both on the held-out split.

    Args:
        rival, why, trial, cost, rival_cost: as in `Comparison`.
        difference: quality of the member less that of the rival, paired by example.
        stderr: its standard error, clustered by image.
        low, high: confidence limits of the difference, 95 % for all claims of the report together (Bonferroni).
        n, images: examples, and the images they are about.
        p: two-sided p value of the difference, of this claim alone.
        p_holm: the same, adjusted for the number of claims (Holm); below 0.05 the verdict is clear.
        p_mcnemar: exact p value of the flips between right and wrong, whole images swapped; of this claim alone.
        claims: made together.
        looks: how often the held-out split had been looked at when this was computed.
        verdict: better, worse, no clear difference, or the same answers on every example.
    """

    rival: str
    why: str
    trial: int
    difference: float
    stderr: float
    low: float
    high: float
    n: int
    images: int
    p: float
    p_holm: float
    p_mcnemar: float
    claims: int
    cost: float
    rival_cost: float
    looks: int
    verdict: str

    @property
    def text(self) -> str:
        """One plain sentence."""
        together = f", Holm over {self.claims} claims" if self.claims > 1 else ""
        return (
            f"trial {self.trial} against {self.rival} ({self.why}): {100 * self.difference:+.1f} points "
            f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}] on {self.n} held-out examples at "
            f"{self.cost / self.rival_cost:.0%} of its exact cost, p {figure(self.p_holm)}{together}: {self.verdict}"
        )


def figure(p: float) -> str:
    """Write a p value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def conclude(comparisons: Sequence[Comparison], looks: int) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    """Return claims, and a line for each comparison that allows none.

    Args:
        comparisons: of one report; they are corrected for one another.
        looks: at the held-out split so far.
    """
    found, refused = [], []
    for c in comparisons:
        mine, theirs = shared(c.one, c.other)
        one, other, images = c.one.correct[mine], c.other.correct[theirs], c.one.image[mine]
        count = len(np.unique(images))
        if count < LEAST_IMAGES:
            refused.append(
                f"No claim against {c.rival}: the {len(images)} held-out examples that both were measured on are about "
                f"{count} image{'s' if count != 1 else ''}; {LEAST_IMAGES} are needed. Give more data with --data, or "
                "more of it with --heldout-examples"
            )
            continue
        found.append((c, paired(one, other, images), mcnemar(one, other, images), bool((one == other).all())))
    adjusted = holm([p_value(x) or 0.0 for _, x, _, _ in found])
    limits = simultaneous([x for _, x, _, _ in found])
    claims = []
    for (c, x, flips, same), wide, p_holm in zip(found, limits, adjusted, strict=True):
        assert x.stderr is not None and wide.low is not None and wide.high is not None
        clear = p_holm < 1 - LEVEL
        claims.append(
            Claim(
                rival=c.rival,
                why=c.why,
                trial=c.trial,
                difference=x.value,
                stderr=x.stderr,
                low=wide.low,
                high=wide.high,
                n=x.n,
                images=x.clusters,
                p=p_value(x) or 0.0,
                p_holm=float(p_holm),
                p_mcnemar=flips,
                claims=len(found),
                cost=c.cost,
                rival_cost=c.rival_cost,
                looks=looks,
                verdict="the same answers on every example"
                if same
                else ("better" if x.value > 0 else "worse")
                if clear
                else "no clear difference",
            )
        )
    return tuple(claims), tuple(refused)


def spread(outcomes: Sequence[Outcomes], rival: Outcomes) -> float | None:
    """Return the median standard error of paired differences from a rival, times the root of n; None without any."""
    found = []
    for one in outcomes:
        mine, theirs = shared(one, rival)
        x = paired(one.correct[mine], rival.correct[theirs], one.image[mine])
        if x.stderr:
            found.append(x.stderr * np.sqrt(x.n))
    return float(np.median(found)) if found else None


def power(examples: int, asked: int, measured: float | None) -> str:
    """Say what a report on held-out examples will be able to show.

    Args:
        examples: held-out examples there are, at most `asked`.
        asked: for.
        measured: spread of the comparisons stored so far, from `spread`; None before the first.
    """
    if examples < 3:
        return f"No claim will be made: there are {examples} held-out examples."
    assumed = SPREAD if measured is None else measured
    source = "as on the proxies' leaderboard" if measured is None else "as stored in this study"
    least = 100 * detectable(assumed, examples, CLAIMS, POWER, LEVEL)
    half = 100 * detectable(assumed, 4 * examples, CLAIMS, POWER, LEVEL)
    more = (
        "the data has no more"
        if examples < asked
        else f"give --heldout-examples {4 * examples} for {half:.1f}"
    )
    return (
        f"With {examples} held-out examples a difference of {least:.1f} points can be seen ({POWER:.0%} power, "
        f"{CLAIMS} claims at {LEVEL:.0%} together, spread of a paired difference {assumed:.2f} an example, {source}); "
        f"{more}."
    )
