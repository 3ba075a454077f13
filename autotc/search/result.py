"""What a run of a search found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotc.export import Member
from autotc.optimism import optimism
from autotc.recommend import Recommendation
from autotc.search._claims import Claim
from autotc.search._clock import Profile
from autotc.search.plateau import Gain


@dataclass(frozen=True)
class Result:
    """What a run found.

    Args:
        study: its name.
        state: finished (all trials, front confirmed), stopped (time was up) or interrupted (Ctrl-C).
        on: the evaluated model.
        front: Pareto-optimal trials within the limits, cheapest first, policies for the full model.
        split: the split the front rests on.
        references: the uncompressed model, baselines and presets.
        claims: the front against the best preset, the baselines and the uncompressed model, on held-out.
        no_claims: lines on what cannot be claimed, and why.
        disagreement: where the two conventions name different winners.
        looks: looks at the held-out split so far.
        trials, total: finished and wanted.
        ran: trials evaluated by this run (0: answered from the store).
        profile: where the time of this run went.
        notes: plain lines about this run.
        plateau: what the last trials brought, where the search stopped for that; None where it did not.
        next: commands to type next.
        recommendation: what `autotc export` would take from the front; None without one.
        exhausted: whether the strategy had nothing more to try before it had all its trials.
    """

    study: str
    state: str
    on: str
    front: tuple[Member, ...]
    split: str
    references: tuple[Member, ...]
    claims: tuple[Claim, ...]
    disagreement: str | None
    looks: int
    trials: int
    total: int
    ran: int
    profile: Profile
    notes: tuple[str, ...] = ()
    next: tuple[str, ...] = ()
    recommendation: Recommendation | None = None
    no_claims: tuple[str, ...] = ()
    exhausted: bool = False
    plateau: Gain | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        claims = [{**vars(c), "text": c.text} for c in self.claims]
        return {
            "study": self.study,
            "state": self.state,
            "on": self.on,
            "split": self.split,
            "front": [m.as_dict() for m in self.front],
            "references": [m.as_dict() for m in self.references],
            "claims": claims,
            "no_claims": list(self.no_claims),
            "disagreement": self.disagreement,
            "optimism": None if (seen := optimism(self.front)) is None else seen.as_dict(),
            "looks": self.looks,
            "trials": self.trials,
            "total": self.total,
            "exhausted": self.exhausted,
            "ran": self.ran,
            "plateau": None if self.plateau is None else {**vars(self.plateau), "text": self.plateau.text},
            "profile": {**vars(self.profile), "outside": self.profile.outside},
            "notes": list(self.notes),
            "next": list(self.next),
            "recommendation": None if self.recommendation is None else self.recommendation.as_dict(),
        }
