"""What a policy loses against the uncompressed model, from stored outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotc import breakdown, mixes
from autotc._outcomes import Outcomes, outcomes_from_columns
from autotc.export import Member
from autotc.statistics import Interval, interval
from autotc.store import Store, TrialRow

SIMILAR = (
    0.1  # members within this share of a policy's exact cost are its rivals when the mix of questions shifts
)


@dataclass(frozen=True)
class Entry:
    """A finished trial or reference: its row in the store, and as a reader of the front sees it."""

    row: TrialRow
    member: Member

    @property
    def name(self) -> str:
        """Its label, or "trial 7"."""
        return self.member.label or f"trial {self.member.trial}"

    @property
    def cost(self) -> float:
        """TFLOP per 1,000 requests, exact convention."""
        return self.member.value("tflops_exact")


@dataclass(frozen=True)
class Losses:
    """What the recommended policy loses.

    Args:
        split, n: the examples.
        change: score less the uncompressed one, paired.
        groups: by question group, the largest drop first.
        flips: answers that changed sides.
        smaller: the reference of smaller images, which divides the examples into easy and hard ones.
        hard: the policy on both; None where that reference was not measured.
        next_question: a second question asked of the pruned cache.
        lengths: answers of one word, and longer ones.
        mix: what a shift of the mix of questions costs among rivals of similar cost; None with fewer than two.
        mix_split: the split that scores them; they were chosen on selection.
        fidelity: how agreement and KL rank the study's policies.
    """

    split: str
    n: int
    change: Interval
    groups: list[breakdown.GroupChange]
    flips: breakdown.Flips
    smaller: Entry | None
    hard: breakdown.Split | None
    next_question: breakdown.NextQuestion | None
    lengths: list[breakdown.GroupChange]
    mix: mixes.MixShift | None
    mix_split: str
    fidelity: list[breakdown.Fidelity]


class Source:
    """Stored outcomes, each read once."""

    def __init__(self, store: Store, on: str) -> None:
        self.store, self.on = store, on
        self._read: dict[tuple[int, str], Outcomes] = {}

    def of(self, entry: Entry | None, split: str) -> Outcomes | None:
        """Return the outcomes of an entry on a split, None where there are none."""
        if entry is None or entry.member.number("quality", split) is None:
            return None
        found = self.read(entry.row.id, split)
        return found if len(found) else None

    def read(self, trial_id: int, split: str) -> Outcomes:
        """Return the outcomes of a trial on a split."""
        key = (trial_id, split)
        if key not in self._read:
            columns: Any = self.store.outcomes(*key)
            self._read[key] = outcomes_from_columns(columns, split=split, on=self.on, metric="")
        return self._read[key]


def losses(source: Source, entries: Sequence[Entry], chosen: Entry) -> Losses | None:
    """Return what a policy loses on the most trustworthy split it was measured on; None without outcomes.

    Args:
        source: of the outcomes.
        entries: all trials and references of the study.
        chosen: the policy, one of them.
    """
    for split in ("held-out", "selection", "search"):
        mine = source.of(chosen, split)
        if mine is not None:
            break
    else:
        return None
    plain = source.of(next((e for e in entries if not e.member.policy.stages), None), split)
    smaller = next((e for e in entries if e.member.label == "downsample"), None)
    easier = source.of(smaller, split)
    mix, mix_split = _mix(source, entries, chosen)
    return Losses(
        split=split,
        n=len(mine),
        change=interval(mine.correct - mine.full, mine.image),
        groups=breakdown.by_group(mine),
        flips=breakdown.flips(mine),
        smaller=smaller,
        hard=None if easier is None else breakdown.hard_split(mine, easier),
        next_question=breakdown.next_question(mine, plain),
        lengths=breakdown.by_answer_length(mine, plain),
        mix=mix,
        mix_split=mix_split,
        fidelity=breakdown.fidelity_correlation(e.row for e in entries),
    )


def _mix(source: Source, entries: Sequence[Entry], chosen: Entry) -> tuple[mixes.MixShift | None, str]:
    """Shift the mix of questions among a policy and its rivals; scored on held-out where two were measured there."""
    rivals: dict[str, Entry] = {}
    for entry in (chosen, *entries):  # a proposal may be a preset: one name a policy
        if abs(entry.cost - chosen.cost) <= SIMILAR * chosen.cost:
            rivals.setdefault(entry.member.policy.id, entry)
    deciding = {e.name: o for e in rivals.values() if (o := source.of(e, "selection")) is not None}
    scored = {e.name: o for e in rivals.values() if (o := source.of(e, "held-out")) is not None}
    both = [name for name in deciding if name in scored]
    if len(both) > 1:
        return mixes.mix_shift({n: deciding[n] for n in both}, {n: scored[n] for n in both}), "held-out"
    return (mixes.mix_shift(deciding), "selection") if len(deciding) > 1 else (None, "")
