"""What an average hides: question groups, flips, hard examples, second questions, long answers.

Every function takes the outcomes of one policy (`autotc._outcomes.Outcomes`). They hold the uncompressed
model's score beside the policy's own on each example, so every difference here is paired, and its standard
error is clustered by image. A "drop" is the uncompressed score less the policy's: positive where the policy
loses. All figures are shares, 0 to 1. An answer is "right" when its score is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from scipy.stats import rankdata

from autotc._outcomes import Outcomes, worst_group_drop
from autotc.policy import Number
from autotc.statistics import Interval, bootstrap_of, interval, mcnemar

__all__ = [
    "Breakdown",
    "Fidelity",
    "Flips",
    "GroupChange",
    "NextQuestion",
    "Split",
    "breakdown",
    "by_answer_length",
    "by_group",
    "fidelity_correlation",
    "flips",
    "hard_split",
    "next_question",
    "worst_group_drop",
]


@dataclass(frozen=True)
class Flips:
    """Answers that changed sides.

    Args:
        right_to_wrong, wrong_to_right: numbers of examples.
        n: examples compared.
        p: exact two-sided test of "as many one way as the other" (McNemar's, clustered by image).
    """

    right_to_wrong: int
    wrong_to_right: int
    n: int
    p: float


@dataclass(frozen=True)
class GroupChange:
    """One group of examples under a policy.

    Args:
        group: its name.
        n: examples.
        quality, uncompressed: mean score of the policy, and of what it is compared with.
        drop: uncompressed less quality, paired.
        flips: answers that changed sides.
    """

    group: str
    n: int
    quality: float
    uncompressed: float
    drop: Interval
    flips: Flips


@dataclass(frozen=True)
class Split:
    """A policy on the examples that plain downsampling gets right, and on those it gets wrong.

    Args:
        easy, hard: score of the policy on each, None where there is no such example.
        policy_gain: score of the policy less that of downsampling, over both, paired.
    """

    easy: Interval | None
    hard: Interval | None
    policy_gain: Interval


@dataclass(frozen=True)
class NextQuestion:
    """A second question asked of the cache that was pruned for a first one.

    Args:
        quality: its score.
        less_own: its score less that of questions asked of their own cache, paired by image.
        less_uncompressed: its score less the uncompressed model's on the same question; None where those
            outcomes were not given.
    """

    quality: Interval
    less_own: Interval
    less_uncompressed: Interval | None


@dataclass(frozen=True)
class Fidelity:
    """How a measure of faithfulness ranks the policies of a study, against their score.

    Args:
        name: "agreement" or "kl".
        rho: Spearman's rank correlation with the score, with an interval bootstrapped over policies; that of KL is
            negative where faithful policies score well. `rho.n` counts policies.
    """

    name: str
    rho: Interval


@dataclass(frozen=True)
class Breakdown:
    """What the average of one policy hides.

    Args:
        groups: question groups, the largest drop first.
        worst: (group, drop, standard error, n) as `worst_group_drop` returns it.
        flips: answers that changed sides.
        next_question: None where no image has two questions.
        answer_length: one-word answers and longer ones; empty where all are alike.
    """

    groups: tuple[GroupChange, ...]
    worst: tuple[str, float, float | None, int] | None
    flips: Flips
    next_question: NextQuestion | None
    answer_length: tuple[GroupChange, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        names = ("group", "drop", "stderr", "n")
        worst = None if self.worst is None else dict(zip(names, self.worst, strict=True))
        return {**asdict(self), "worst": worst}


class Measured(Protocol):
    """Anything with figures: a stored trial, or a member of a front."""

    @property
    def numbers(self) -> Sequence[Number]: ...


def breakdown(outcomes: Outcomes, uncompressed: Outcomes) -> Breakdown:
    """Return all that the outcomes of one policy tell beside the average.

    Args:
        outcomes: of the policy.
        uncompressed: outcomes of the uncompressed model on the same examples.
    """
    return Breakdown(
        tuple(by_group(outcomes)),
        worst_group_drop(outcomes),
        flips(outcomes),
        next_question(outcomes, uncompressed),
        tuple(by_answer_length(outcomes, uncompressed)),
    )


def by_group(outcomes: Outcomes, against: Outcomes | None = None) -> list[GroupChange]:
    """Return every question group, the largest drop first.

    Args:
        outcomes: of the policy.
        against: other outcomes to compare with, joined by example; None: the uncompressed scores in `outcomes`.
    """
    return _changes(outcomes, against, outcomes.group.astype(str))


def flips(outcomes: Outcomes, against: Outcomes | None = None) -> Flips:
    """Count the answers that were right and are wrong under the policy, and the other way round.

    Args:
        outcomes: of the policy.
        against: other outcomes to compare with, joined by example; None: the uncompressed scores in `outcomes`.
    """
    mine, reference, image, _ = _paired(outcomes, against)
    return _flips(mine, reference, image)


def hard_split(outcomes: Outcomes, downsample: Outcomes) -> Split:
    """Return the policy's score where plain downsampling at the same cost is right, and where it is wrong.

    After VTC-Bench (arXiv 2510.07143): examples that a smaller picture answers say little about a method. The
    two subsets are defined by downsampling, which scores 1 and 0 on them by construction: it cannot be ranked
    on them, and a policy's score on the hard ones has to be read beside its loss on the easy ones.

    Args:
        outcomes: of the policy.
        downsample: of an `input` stage at the same exact cost, joined by example.
    """
    mine, other, image, _ = _paired(outcomes, downsample)
    right = other >= 1
    easy, hard = (interval(mine[part], image[part]) if part.any() else None for part in (right, ~right))
    return Split(easy, hard, interval(mine - other, image))


def next_question(outcomes: Outcomes, uncompressed: Outcomes | None = None) -> NextQuestion | None:
    """Return how a second question fares on the cache that was pruned for the first; None where no image has two.

    Where every question of an image is asked, each is also the second question of another one, so the
    difference to `correct` compares the same questions on the other's cache and on their own.

    Args:
        outcomes: of the policy.
        uncompressed: outcomes of the uncompressed model, joined by example.
    """
    there = ~np.isnan(outcomes.next_correct)
    if not there.any():
        return None
    asked = outcomes.take(there)
    less_full = None
    if uncompressed is not None:
        i, j = _joined(asked, uncompressed)
        less_full = interval(asked.next_correct[i] - uncompressed.next_correct[j], asked.image[i])
    return NextQuestion(
        interval(asked.next_correct, asked.image),
        interval(asked.next_correct - asked.correct, asked.image),
        less_full,
    )


def by_answer_length(outcomes: Outcomes, against: Outcomes | None = None) -> list[GroupChange]:
    """Return the examples with a one-word answer and those with a longer one, where there are both.

    The words are counted in `against`'s answer, and in the policy's own without it. That is what a model writes
    in the place of the right answer, token by token, so both have as many tokens.

    Args:
        outcomes: of the policy.
        against: outcomes of the uncompressed model, joined by example.
    """
    texts = (
        dict(zip(against.id.tolist(), against.answer.tolist(), strict=True)) if against is not None else {}
    )
    written = [texts.get(i, mine) for i, mine in zip(outcomes.id.tolist(), outcomes.answer, strict=True)]
    labels = np.array(["one word" if len(str(t).split()) <= 1 else "several words" for t in written])
    return _changes(outcomes, against, labels) if len(set(labels)) > 1 else []


def fidelity_correlation(trials: Iterable[Measured], split: str = "search") -> list[Fidelity]:
    """Return how agreement and KL rank the policies of a study against their score.

    Policies that were stopped early are left out: they saw fewer examples than the others. Figures of one policy
    are from the same examples, so some of the correlation is shared luck.

    Args:
        trials: stored trials or members of a front.
        split: whose figures.
    """
    found = [{n.name: n for n in t.numbers if n.split == split} for t in trials]
    found = [numbers for numbers in found if "quality" in numbers]
    most = max((numbers["quality"].n or 0 for numbers in found), default=0)
    full = [numbers for numbers in found if (numbers["quality"].n or 0) == most]
    out = []
    for name in ("agreement", "kl"):
        pairs = np.array([(m[name].value, m["quality"].value) for m in full if name in m]).reshape(-1, 2)
        if len(pairs) > 2 and np.ptp(pairs, axis=0).min() > 0:
            columns = {"figure": pairs[:, 0], "score": pairs[:, 1]}
            out.append(Fidelity(name, bootstrap_of(columns, np.arange(len(pairs)), _spearman)))
    return out


def _spearman(columns: Mapping[str, np.ndarray]) -> float:
    one, other = (rankdata(columns[name]) for name in ("figure", "score"))
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) and np.ptp(other) else float("nan")


# --- pairs ---


def _joined(one: Outcomes, other: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the examples that both have."""
    at = {name: i for i, name in enumerate(other.id.tolist())}
    pairs = [(i, at[name]) for i, name in enumerate(one.id.tolist()) if name in at]
    mine, theirs = np.array(pairs, dtype=int).reshape(-1, 2).T
    return mine, theirs


def _paired(
    outcomes: Outcomes, against: Outcomes | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the policy's scores, what they are compared with, images, and positions in `outcomes`."""
    if against is None:
        where, reference = np.arange(len(outcomes)), outcomes.full
    else:
        where, theirs = _joined(outcomes, against)
        reference = against.correct[theirs]
    there = ~np.isnan(outcomes.correct[where] + reference)
    where, reference = where[there], reference[there]
    return outcomes.correct[where], reference, outcomes.image[where], where


def _flips(mine: np.ndarray, reference: np.ndarray, image: np.ndarray) -> Flips:
    right, before = mine >= 1, reference >= 1
    lost, won = int((before & ~right).sum()), int((right & ~before).sum())
    return Flips(lost, won, len(mine), mcnemar(right, before, image))


def _changes(outcomes: Outcomes, against: Outcomes | None, labels: np.ndarray) -> list[GroupChange]:
    mine, reference, image, where = _paired(outcomes, against)
    out = []
    for name in sorted(set(labels[where].tolist())):
        part = labels[where] == name
        drop = interval(reference[part] - mine[part], image[part])
        quality, before = float(mine[part].mean()), float(reference[part].mean())
        flipped = _flips(mine[part], reference[part], image[part])
        out.append(GroupChange(name, int(part.sum()), quality, before, drop, flipped))
    return sorted(out, key=lambda g: (-g.drop.value, g.group))
