"""Which member of a front is recommended: the best by some rule among those that meet the user's constraints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from autotc.calibration import verdict
from autotc.constraints import BEST, DEFAULT, SHARES, Best, Constraint, recommending
from autotc.errors import AutotcError, SpecError
from autotc.export import Member
from autotc.pareto import cheapest_within_noise, knee
from autotc.policy import Number


@dataclass(frozen=True)
class Miss:
    """A constraint that a member breaks.

    Args:
        constraint: which one.
        found: the member's figure; None where it was not measured.
        excess: by how much it is broken; infinite where it was not measured.
    """

    constraint: Constraint
    found: Number | None
    excess: float


@dataclass(frozen=True)
class Recommendation:
    """What to take from a front, or what speaks against a member that somebody took.

    Args:
        member: the member that `best` names among those that meet every constraint; where none does, the
            nearest one, which is then not recommended.
        best: the rule; None where the member was named by hand.
        split: the split whose figures the constraints are held against.
        constraints: what had to be met.
        meeting: numbers of the trials that meet all of them.
        of: members of the front.
        misses: what `member` breaks; empty where it meets every constraint.
        unchecked: default constraints on a figure that no member has; they were not applied.
    """

    member: Member
    best: Best | None
    split: str
    constraints: tuple[Constraint, ...]
    meeting: tuple[int | str, ...]
    of: int
    misses: tuple[Miss, ...] = ()
    unchecked: tuple[Constraint, ...] = ()

    @property
    def recommended(self) -> bool:
        """Whether the member meets every constraint."""
        return not self.misses

    @property
    def advice(self) -> str:
        """Why even a member that meets every constraint is not recommended; empty where it is.

        Nothing is on the word of a proxy that its calibration does not carry.
        """
        number = self.member.number("quality", self.split)
        judged = None if number is None else verdict(number.on)
        return "" if judged is None else judged.advice

    @property
    def text(self) -> str:
        """Some plain sentences."""
        wanted = " and ".join(c.explained for c in self.constraints)
        who = self.member.label or f"trial {self.member.trial}"
        misses = ", ".join(_missed(miss) for miss in self.misses)
        if self.misses and self.best is None:
            return f"Not recommended: {who} does not meet {wanted} on {self.split}: {misses}."
        if self.misses:
            return (
                f"Nothing is recommended: no member of the front meets {wanted} on {self.split}. "
                f"The nearest is {who}: {misses}."
            )
        if self.best is None:
            said = f"Chosen by hand: {who}" + (f", which meets {wanted} on {self.split}" if wanted else "")
        else:
            said = "Best on the proxy" if self.advice else "Recommended"
            said += f" (--best {self.best}): {who}"
            if wanted:
                of = f"{len(self.meeting)} of {self.of} members of the front"
                said += f"; {of} meet {wanted} on {self.split}"
        for c in self.unchecked:
            said += f". No member has {c.name} on {self.split}, so {c} was not applied"
        return " ".join((said + ".", self.advice)).strip()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "trial": self.member.trial,
            "recommended": self.recommended and not self.advice,
            "best": self.best,
            "split": self.split,
            "constraints": [str(c) for c in self.constraints],
            "meeting": list(self.meeting),
            "misses": [
                {
                    "constraint": str(m.constraint),
                    "value": None if m.found is None else m.found.value,
                    "stderr": None if m.found is None else m.found.stderr,
                    "n": None if m.found is None else m.found.n,
                    "excess": None if m.found is None else m.excess,
                }
                for m in self.misses
            ],
            "unchecked": [str(c) for c in self.unchecked],
            "text": self.text,
        }


def recommend(
    front: Sequence[Member],
    split: str,
    best: str = BEST,
    given: Sequence[Constraint] = (),
    named: Member | None = None,
) -> Recommendation:
    """Choose a member of a front: the one rule that commands, reports, the service and the dashboard share.

    Figures are held against the constraints as they were measured on `split`, noise included. Where no member meets
    them all, the nearest one is named, whatever `best` says.

    Args:
        front: cheapest first, as `autotc.export.front` returns it.
        split: the split it rests on.
        best: how to choose among members that meet the constraints: the best quality, the knee, or the cheapest within
            one standard error of the best quality.
        given: the user's constraints; `constraints.DEFAULT` joins them where none is about its figure.
        named: a member, on the front or not, that was chosen by hand: it is only held against the constraints.

    Raises:
        SpecError: the front is empty and nothing is named, or an unknown way to choose.
    """
    if best not in get_args(Best):
        raise SpecError(f"--best: {best!r} is not quality, knee or cheapest")
    if not front and named is None:
        raise SpecError(
            "the front is empty: no trial is within the limit. Search on, or allow more with --max-tflops"
        )
    rule: Best = best  # type: ignore[assignment]
    wanted = recommending(given)
    unchecked = tuple(
        c
        for c in wanted
        if c == DEFAULT
        and c not in given
        and not any(m.number(c.name, split) for m in (*front, *([named] if named else [])))
    )
    applied = tuple(c for c in wanted if c not in unchecked)
    broken = [(m, _misses(m, split, applied)) for m in front]
    meeting = [m for m, misses in broken if not misses]
    trials = tuple(m.trial for m in meeting)

    def distance(pair: tuple[Member, tuple[Miss, ...]]) -> tuple[float, float, float]:
        asked = [miss for miss in pair[1] if miss.constraint in given]  # before what nobody asked for
        return _distance(asked), _distance(pair[1]), -pair[0].value("quality", split)

    if named is not None:
        chosen, misses = named, _misses(named, split, applied)
    elif meeting:
        chosen, misses = _best(meeting, split, rule), ()
    else:
        chosen, misses = min(broken, key=distance)
    way = None if named is not None else rule
    return Recommendation(chosen, way, split, applied, trials, len(front), misses, unchecked)


def insist(found: Recommendation, given: Sequence[Constraint]) -> None:
    """Refuse a member that breaks a constraint which the user gave; the default one alone is only reported.

    Raises:
        AutotcError: nothing meets the user's constraints; the message names the nearest member.
    """
    if any(miss.constraint in given for miss in found.misses):
        raise AutotcError(
            f"{found.text} Relax it with --constraint, or take the trial all the same with --trial {found.member.trial}"
        )


def _best(meeting: Sequence[Member], split: str, best: Best) -> Member:
    figures = [m.decisive("quality", split) for m in meeting]
    quality = [number.value for number in figures]
    cost = [m.value("tflops_exact") for m in meeting]
    if best == "knee":
        return meeting[knee(np.column_stack([quality, cost]), maximise=(True, False))]
    noise = [number.stderr or 0.0 if best == "cheapest" else 0.0 for number in figures]
    return meeting[cheapest_within_noise(quality, noise, cost)]


def _misses(member: Member, split: str, constraints: Sequence[Constraint]) -> tuple[Miss, ...]:
    found = []
    for constraint in constraints:
        number = member.number(constraint.name, split)
        excess = float("inf") if number is None else constraint.excess(number.value)
        if excess > 0:
            found.append(Miss(constraint, number, excess))
    return tuple(found)


def _distance(misses: Sequence[Miss]) -> float:
    """Sum of the excesses, each in units of its limit: figures of different units are added."""
    return sum(miss.excess / (abs(miss.constraint.limit) or 1.0) for miss in misses)


def _missed(miss: Miss) -> str:
    name = miss.constraint.name
    if miss.found is None:
        return f"{name} was not measured"
    scale, unit, points = (100.0, " %", " points") if name in SHARES else (1.0, "", "")
    digits = 1 if name in SHARES else 3
    error = "" if miss.found.stderr is None else f" ± {scale * miss.found.stderr:.{digits}f}"
    return (
        f"{name} {scale * miss.found.value:.{digits}f}{error}{unit} misses by "
        f"{scale * miss.excess:.{digits}f}{points}"
    )
