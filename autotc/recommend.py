"""Which member of a front is recommended: the best by some rule among those that meet the user's constraints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotc.calibration import verdict
from autotc.constraints import DEFAULT, Constraint, recommending
from autotc.errors import AutotcError
from autotc.export import Best, Member, choose
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
    """What to take from a front.

    Args:
        member: the member that `best` names among those that meet every constraint; where none does, the
            nearest one, which is then not recommended.
        best: the rule.
        split: the split whose figures the constraints are held against.
        constraints: what had to be met.
        meeting: numbers of the trials that meet all of them.
        of: members of the front.
        misses: what `member` breaks; empty where it is recommended.
        unchecked: default constraints on a figure that no member has; they were not applied.
    """

    member: Member
    best: Best
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
        wanted = " and ".join(str(c) for c in self.constraints)
        if self.recommended:
            said = "Best on the proxy" if self.advice else "Recommended"
            said += f" (--best {self.best}): trial {self.member.trial}"
            if wanted:
                said += (
                    f"; {len(self.meeting)} of {self.of} members of the front meet {wanted} on {self.split}"
                )
            for c in self.unchecked:
                said += f". No member has {c.name} on {self.split}, so {c} was not applied"
            return " ".join((said + ".", self.advice)).strip()
        misses = ", ".join(_missed(miss) for miss in self.misses)
        return (
            f"Nothing is recommended: no member of the front meets {wanted} on {self.split}. "
            f"The nearest is trial {self.member.trial}: {misses}."
        )

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
    front: Sequence[Member], split: str, best: Best = "knee", given: Sequence[Constraint] = ()
) -> Recommendation:
    """Choose a member of a front.

    Figures are held against the constraints as they were measured on `split`, noise included.

    Args:
        front: cheapest first, as `autotc.export.front` returns it.
        split: the split it rests on.
        best: how to choose among members that meet the constraints.
        given: the user's constraints; `constraints.DEFAULT` joins them where none is about its figure.

    Raises:
        SpecError: the front is empty.
    """
    wanted = recommending(given)
    unchecked = tuple(
        c
        for c in wanted
        if c == DEFAULT and c not in given and not any(m.number(c.name, split) for m in front)
    )
    applied = tuple(c for c in wanted if c not in unchecked)
    broken = [(m, _misses(m, split, applied)) for m in front]
    meeting = [m for m, misses in broken if not misses]
    if meeting or not front:
        return Recommendation(
            choose(meeting, split, best),
            best,
            split,
            applied,
            tuple(m.trial for m in meeting),
            len(front),
            (),
            unchecked,
        )

    def distance(pair: tuple[Member, tuple[Miss, ...]]) -> tuple[float, float, float]:
        asked = [miss for miss in pair[1] if miss.constraint in given]  # before what nobody asked for
        return _distance(asked), _distance(pair[1]), -pair[0].value("quality", split)

    chosen, misses = min(broken, key=distance)
    return Recommendation(chosen, best, split, applied, (), len(front), misses, unchecked)


def insist(found: Recommendation, given: Sequence[Constraint]) -> None:
    """Refuse a member that breaks a constraint which the user gave; the default one alone is only reported.

    Raises:
        AutotcError: nothing meets the user's constraints; the message names the nearest member.
    """
    if any(miss.constraint in given for miss in found.misses):
        raise AutotcError(
            f"{found.text} Relax it with --constraint, or take the trial all the same with --trial {found.member.trial}"
        )


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
    if miss.found is None:
        return f"{miss.constraint.name} was not measured"
    error = "" if miss.found.stderr is None else f" ± {miss.found.stderr:.3f}"
    return f"{miss.constraint.name} {miss.found.value:.3f}{error} misses by {miss.excess:.3f}"
