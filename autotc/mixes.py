"""What one loses when the mix of questions changes after the choice of a policy.

Takes the outcomes of rivals (`autotc._outcomes.Outcomes`); all figures are shares, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from autotc._outcomes import Outcomes
from autotc.statistics import Interval, interval

TILT = 4.0  # how many times more frequent one question group becomes in a tilted mix
MOST_HALVES = 32  # of the ways to divide the groups into two halves


@dataclass(frozen=True)
class Shift:
    """One change of the mix of questions.

    Args:
        kind: "tilted" or "halves".
        mix: what the questions became, in words.
        chosen: the member that was best on the mix before.
        best: the member that is best on the new mix, chosen on the same examples as `chosen`.
        regret: score of `best` less that of `chosen` on the new mix.
    """

    kind: str
    mix: str
    chosen: str
    best: str
    regret: Interval


@dataclass(frozen=True)
class MixShift:
    """What one loses when the mix of questions changes after the choice.

    Args:
        chosen: the best member on the data's own mix.
        shifts: every change that was tried.
        tilted, halves: mean regret over the changes of a kind; None where there are too few groups.
        worst: the change with the largest regret.
        fresh: whether the scores are from other examples than the choices; otherwise noise counts as regret.
    """

    chosen: str
    shifts: tuple[Shift, ...]
    tilted: Interval | None
    halves: Interval | None
    worst: Shift | None
    fresh: bool


def mix_shift(
    members: Mapping[str, Outcomes], scored: Mapping[str, Outcomes] | None = None, tilt: float = TILT
) -> MixShift:
    """Choose the best member on one mix of question groups, and score it on another.

    Two kinds of change: each group in turn becomes `tilt` times as frequent ("tilted"), and half of the groups
    vanish after the choice was made on them alone ("halves"; at most 32 ways, evenly picked). The regret is
    what the best member for the new mix, chosen on the same examples, scores more. Without `scored` choice and
    score rest on the same examples: no regret is negative then, and noise counts as regret.

    Args:
        members: outcomes by name, of policies that are rivals (at similar cost), on the examples that decide.
        scored: outcomes of the same members on other examples, which are scored.
        tilt: how many times as frequent.

    Raises:
        ValueError: no member, or members of `scored` are missing.
    """
    if not members or (scored is not None and set(members) - set(scored)):
        raise ValueError("mix_shift: every member needs its outcomes, on both sets of examples")
    names = list(members)
    deciding, measuring = _Table.of(members), _Table.of(scored or members)
    groups = [g for g in deciding.groups if g in measuring.groups]
    own = {g: float((deciding.group == g).sum()) for g in groups}
    changes: list[tuple[str, str, dict[str, float], dict[str, float]]] = [
        ("tilted", f"{g} x {tilt:g}", own, {**own, g: tilt * own[g]}) for g in groups if len(groups) > 1
    ]
    for half in _halves(groups):
        rest = [g for g in groups if g not in half]
        changes.append(
            ("halves", ", ".join(rest), {g: own[g] for g in half}, {g: own[g] for g in rest}),
        )
    shifts, kinds = [], {"tilted": [], "halves": []}  # type: ignore[var-annotated]
    for kind, mix, before, after in changes:
        chosen, best = deciding.best(before), deciding.best(after)
        values = measuring.difference(best, chosen, after)
        kinds[kind].append(values)
        regret = interval(values, measuring.image)
        shifts.append(Shift(kind, mix, names[chosen], names[best], regret))
    means = {k: interval(np.mean(v, axis=0), measuring.image) if v else None for k, v in kinds.items()}
    worst = max(shifts, key=lambda s: s.regret.value, default=None)
    return MixShift(
        names[deciding.best(own)], tuple(shifts), means["tilted"], means["halves"], worst, scored is not None
    )


@dataclass(frozen=True)
class _Table:
    """Scores of several members on the examples that all of them have.

    Args:
        scores: (members, n).
        group, image: (n,).
    """

    scores: np.ndarray
    group: np.ndarray
    image: np.ndarray

    @staticmethod
    def of(members: Mapping[str, Outcomes]) -> _Table:
        first, *others = members.values()
        shared = set(first.id.tolist()).intersection(*(o.id.tolist() for o in others))
        ids = [i for i in first.id.tolist() if i in shared]
        rows, base = [], None
        for outcomes in members.values():
            at = {name: k for k, name in enumerate(outcomes.id.tolist())}
            taken = outcomes.take(np.array([at[i] for i in ids], dtype=int))
            base = base or taken
            rows.append(taken.correct)
        assert base is not None
        return _Table(np.stack(rows), base.group.astype(str), base.image)

    @property
    def groups(self) -> list[str]:
        return sorted(set(self.group.tolist()))

    def weights(self, mix: Mapping[str, float]) -> np.ndarray:
        """Return (n,) weights that sum to 1 and give each group its share of the mix."""
        total = sum(mix.values())
        each = {g: w / total / (self.group == g).sum() for g, w in mix.items()}
        return np.array([each.get(g, 0.0) for g in self.group.tolist()])

    def best(self, mix: Mapping[str, float]) -> int:
        """Return the member with the highest score on a mix, the first of equals."""
        return int(np.argmax(np.round(self.scores @ self.weights(mix), 12)))

    def difference(self, one: int, other: int, mix: Mapping[str, float]) -> np.ndarray:
        """Return (n,) values whose mean is the weighted difference of two members on a mix, and whose spread is
        that of the difference within groups: the mix is given, not drawn.
        """
        gap, weights = self.scores[one] - self.scores[other], self.weights(mix)
        centred = np.zeros_like(gap)
        for name in mix:
            part = self.group == name
            centred[part] = gap[part] - gap[part].mean()
        return float(weights @ gap) + len(gap) * weights * centred


def _halves(groups: Sequence[str]) -> list[tuple[str, ...]]:
    """Return halves of the groups to choose on, evenly picked where there are too many."""
    if len(groups) < 2:
        return []
    every = list(combinations(groups, len(groups) // 2))
    step = max(1, len(every) // MOST_HALVES)
    return every[::step][:MOST_HALVES]
