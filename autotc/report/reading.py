"""A stored study as a report needs it: plain data, nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from autotc.calibration import Verdict, verdict
from autotc.constraints import BEST, Constraint
from autotc.environment import grouped
from autotc.errors import SpecError
from autotc.export import BASELINES, document, member
from autotc.history import History
from autotc.policy import Policy
from autotc.price import Price, prices
from autotc.recommend import Recommendation
from autotc.report import provenance
from autotc.report.losses import Entry, Losses, Source, losses
from autotc.search._claims import Claim
from autotc.search._comparisons import claims, detectable, disagreement, rivals
from autotc.store import Store, StudyRow, TrialRow
from autotc.tables.fronts import FrontView
from autotc.transfer import Ceiling, ceiling


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Args:
        study: as stored.
        view: the front within the limits, and what it was chosen from.
        entries: every finished trial and reference, in the order of the store.
        front: within the limits, cheapest first.
        recommendation: the rule's answer; None when the front is empty.
        recommended: that member.
        policy: the same as the document that leaves.
        losses: of that member; None where no outcomes are stored.
        history: how far the search had come after each trial; None without trials.
        unfinished: trials without a result by reason.
        claims: the front against what costs no less, on held-out.
        refused: why a claim is not made, a line each.
        power: which difference the held-out examples can show.
        disagreement: where the two ways of counting name different winners.
        prices: what keeping to an engine costs.
        looks: looks at the held-out split.
        command: of the search, every option spelled out.
        environments: versions and machine that trials and references were run with, each with how many.
    """

    study: StudyRow
    view: FrontView
    entries: Sequence[Entry]
    front: Sequence[Entry]
    recommendation: Recommendation | None
    recommended: Entry | None
    policy: Policy | None
    losses: Losses | None
    history: History | None
    unfinished: Mapping[str, int]
    claims: Sequence[Claim]
    refused: Sequence[str]
    power: str
    disagreement: str | None
    prices: Sequence[Price]
    looks: int
    command: str
    environments: Sequence[tuple[str, int]]

    @property
    def references(self) -> list[Entry]:
        """References and presets, cheapest first."""
        return sorted((e for e in self.entries if e.member.reference), key=lambda e: e.cost)

    @property
    def presets(self) -> list[Entry]:
        """Published presets within the limits, best on selection first; of equals the one with held-out figures."""
        within = [e for e in self.references if e.member.label not in BASELINES and self.within(e)]
        measured = [e for e in within if e.member.number("quality", "selection")]
        return sorted(
            measured,
            key=lambda e: (
                -e.member.decisive("quality", "selection").value,
                e.member.number("quality", "held-out") is None,
            ),
        )

    @property
    def uncompressed(self) -> Entry | None:
        """The model without a policy."""
        return next((e for e in self.references if not e.member.policy.stages), None)

    def reference(self, label: str) -> Entry | None:
        """Return a reference by its label, within the limits if there is one."""
        named = [e for e in self.references if e.member.label == label]
        return next((e for e in named if self.within(e)), next(iter(named), None))

    def within(self, entry: Entry) -> bool:
        """Whether an entry costs no more than the limit."""
        return _within(self.view, entry.row)

    @property
    def proxy(self) -> str | None:
        """Name of the proxy that quality was measured on; None where the model itself was run."""
        on = self.study.evaluated_on
        return on.removeprefix("proxy:") if on.startswith("proxy:") else None

    @property
    def calibration(self) -> Verdict | None:
        """How far that proxy can be trusted."""
        return verdict(self.study.evaluated_on) if self.proxy else None

    @property
    def ceiling(self) -> Ceiling | None:
        """How far proxies of the family agree among themselves; None where nobody measured it, or without a proxy."""
        return ceiling(str(self.study.model.get("family"))) if self.proxy else None

    @property
    def demo(self) -> bool:
        """Whether quality was measured on a proxy whose calibration does not carry a recommendation."""
        return self.calibration is not None and not self.calibration.passed


def read(
    store: Store,
    study: str,
    limit: float | None = None,
    convention: str | None = None,
    best: str = BEST,
    constraints: Sequence[str] = (),
) -> Report:
    """Read what there is to say about a study.

    Args:
        limit: TFLOP per 1,000 requests; default: the one it was searched under.
        convention: of the limit; default: the study's.
        best: how the recommended policy is chosen, as `autotc export` does.
        constraints: that it has to meet, as strings; default: the study's.

    Raises:
        SpecError: no such study, an unknown convention or rule, or constraints that contradict one another.
    """
    view = FrontView.read(store, study, limit, convention, constraints)
    row = store.study(study)
    if row is None:
        raise SpecError(f"{store.url_shown}: the study {study!r} was removed while it was read")
    rows = store.trials(study)
    entries = [Entry(r, member(r)) for r in rows if r.state == "complete" and r.numbers]
    trials = {e.member.trial: e for e in entries if not e.member.reference}
    found = view.recommend(best) if view.front else None
    chosen = trials[found.member.trial] if found else None
    source = Source(store, row.evaluated_on)
    complete = [e.row for e in entries]
    line = [trials[m.trial] for m in view.front]
    looks = len(store.looks(study, "held-out"))
    within = partial(_within, view)
    made, refused = claims(
        [e.row for e in line], rivals(complete, within), source.read, looks, view.objectives
    )
    wanted = row.spec.get("heldout_examples") or 0
    largest = max((n.n or 0 for r in complete if (n := r.number_of("quality", "held-out"))), default=wanted)
    return Report(
        study=row,
        view=view,
        entries=entries,
        front=line,
        recommendation=found,
        recommended=chosen,
        policy=document(chosen.member, study, view.workload, found.as_dict()) if chosen and found else None,
        losses=losses(source, entries, chosen) if chosen else None,
        history=view.history(),
        unfinished=_unfinished(rows),
        claims=made,
        refused=refused,
        power=detectable(complete, source.read, largest, max(wanted, largest)),
        disagreement=disagreement(complete, within),
        prices=prices(store, study, view.within),
        looks=looks,
        command=provenance.command(row.spec),
        environments=grouped(r.environment for r in rows if r.finished is not None),
    )


def _within(view: FrontView, row: TrialRow) -> bool:
    """Whether a trial or reference meets every limit on its costs."""
    named = [] if view.limit is None else [Constraint(f"tflops_{view.convention}", view.limit)]
    limits = [*named, *(c for c in view.constraints if c.on_cost)]
    return all(c.violation(row.costs) <= 0 for c in limits)


def _unfinished(rows: Sequence[TrialRow]) -> dict[str, int]:
    """Count trials and references without a result by their reason, the most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.state in ("failed", "infeasible"):
            reason = f"{row.state}: {row.reason or 'no reason was recorded'}"
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
