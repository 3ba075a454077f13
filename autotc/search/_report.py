"""After the trials: the front is confirmed on the selection split, claims are made on the held-out one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from autotc.export import Member, member
from autotc.pareto import non_dominated, spread_out
from autotc.search._claims import Claim
from autotc.search._comparisons import BASELINES, called, claims, detectable, disagreement, quality, rivals
from autotc.search._session import SURVIVABLE, Board, Entry, Session
from autotc.search.objectives import COST, QUALITY, point
from autotc.store import TrialRow

MOST_CANDIDATES = 12
FIRST = ("uncompressed", *BASELINES)
PRESETS_ON_SELECTION = 4  # the likeliest rivals; the other presets follow while there is time
MOST_OF_TIME = 0.6
SAFETY = 1.1  # over what the last steps are expected to take


class Report:
    """Measures candidates and references on the splits that are not searched on.

    Args:
        session: what this run shares.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._time_s: float | None = None

    def start(self) -> None:
        """Note that the trials begin: from here the time is divided between them and the last steps."""
        self._time_s = self.session.clock.left_s

    # --- what it will take ---

    def reserve_s(self, board: Board) -> float:
        """Return the seconds that selection and held-out are expected to take."""
        members = board.front()
        front = min(MOST_CANDIDATES, len(members))
        candidates = min(MOST_CANDIDATES, front + 2)
        needed = self._pass_s("selection", candidates, members) + self._pass_s("held-out", front, members)
        # on a slow machine trials still get a share of the time; the last steps then end late
        return needed if self._time_s is None else min(needed, MOST_OF_TIME * self._time_s)

    def _pass_s(self, split: str, trials: int, front: Sequence[Entry]) -> float:
        """Return the seconds that trials like those of the front, and references beside them, take on a split."""
        session, clock = self.session, self.session.clock
        spec = session.spec
        wanted = {"selection": spec.selection_examples, "held-out": spec.heldout_examples}
        mean = clock.seconds_an_example
        known = [e.seconds for e in front if e.seconds is not None]
        pace = sum(known) / len(known) if known else mean
        # the uncompressed model is what the first look runs anyway
        references = len(BASELINES) + (PRESETS_ON_SELECTION if split == "selection" else 1)
        each = trials * pace + references * mean + clock.opening_s_an_example
        return SAFETY * session.available(split, wanted[split]) * each

    # --- measuring ---

    def measure(self, board: Board) -> None:
        """Measure candidates and references on selection, then the front and references on held-out."""
        session, spec = self.session, self.session.spec
        rows = self._rows()
        trials = [r for r in rows if r.role == "trial"]
        chosen = self.candidates(trials)
        if not chosen:
            return
        references = self._in_order([r for r in rows if r.role == "reference"])
        # presets that a trial has tried too: what their reference is measured to be counts for the front
        of_reference = {r.policy.id for r in references} - {r.policy.id for r in chosen}
        twins = _distinct([r for r in trials if r.policy.id in of_reference and self.session.feasible(r)])
        needed = len(chosen) + len(FIRST) + PRESETS_ON_SELECTION
        final_s = self._pass_s("held-out", len(chosen), board.front())
        self._pass(
            "selection", spec.selection_examples, [*chosen, *references, *twins], needed, board, final_s
        )
        rows = self._rows()
        compared = [*self.front(rows), *rivals(rows, self._within)]
        self._pass("held-out", spec.heldout_examples, compared, len(compared), board)
        front = self.front(self._rows())
        if front:
            session.store.publish_front(session.name, self.budget(), [r.id for r in front])

    def candidates(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        """Return the trials worth a second look: the front on the search split, then those behind it."""
        left = _distinct([r for r in rows if self.session.feasible(r)])
        found: list[TrialRow] = []
        while left and len(found) < MOST_CANDIDATES:
            layer = self._front(left, "search")
            if not layer or (found and len(found) + len(layer) > MOST_CANDIDATES):
                break
            left = [r for r in left if r not in layer]
            found += self._apart(layer)
        return found

    def _apart(self, layer: list[TrialRow]) -> list[TrialRow]:
        """Return at most `MOST_CANDIDATES` of a front, those that lie farthest apart."""
        if len(layer) <= MOST_CANDIDATES:
            return layer
        self.session.notes.append(
            f"{len(layer)} trials are on the front of the search examples; the {MOST_CANDIDATES} that lie farthest "
            "apart are confirmed on other examples."
        )
        return [layer[i] for i in spread_out(self._points(layer, "search"), MOST_CANDIDATES)]

    def front(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        """Return the front on selection (on search before that), within the limits, cheapest first."""
        trials = _distinct([r for r in rows if r.role == "trial" and self.session.feasible(r)])
        for split in ("selection", "search"):
            measured = [r for r in trials if r.number_of(QUALITY.name, split) is not None]
            if measured:
                return sorted(self._front(measured, split), key=lambda r: r.costs[COST.name])
        return []

    def budget(self) -> dict[str, float | str]:
        """Return the limits of this run."""
        spec = self.session.spec
        limits = {"max_tflops": spec.max_tflops, "max_memory_gib": spec.max_memory_gib}
        named: dict[str, float | str] = {k: v for k, v in limits.items() if v is not None}
        return {**named, "flops_convention": spec.flops_convention}

    def _pass(
        self, split: str, n: int, rows: Sequence[TrialRow], needed: int, board: Board, later_s: float = 0.0
    ) -> None:
        """Measure rows on a split; beyond the first `needed` only while more than `later_s` seconds are left."""
        session = self.session
        missing = [(i, r) for i, r in enumerate(rows) if r.number_of(QUALITY.name, split) is None]
        if not missing:
            return
        with session.clock.part("store"):
            session.store.look(session.name, split, f"{len(missing)} policies of up to {len(rows)}")
        same = {
            r.policy.id: (r.id, [n for n in r.numbers if n.split == split])
            for r in self._rows()
            if r.number_of(QUALITY.name, split) is not None
        }
        skipped = []
        for done, (i, row) in enumerate(missing):
            left = session.clock.left_s
            known = row.policy.id in same
            if i >= needed and left is not None and left <= later_s and not known:
                if row.label is not None:
                    skipped.append(row.label)
                continue
            try:
                if known:  # a proposal may be a preset
                    twin, numbers = same[row.policy.id]
                    outcomes = session.outcomes(twin, split)
                else:
                    outcomes = session.evaluate_fully(row.policy, split, n)
                    numbers = session.evaluator.numbers(outcomes)
            except SURVIVABLE as error:
                session.notes.append(
                    f"{called(row)} could not be measured on {split}: {session.failed(error)}"
                )
                continue
            session.failures = 0
            with session.clock.part("store"):
                session.patiently(partial(session.store.add_outcomes, row.id, split, outcomes))
                session.patiently(partial(session.store.add_numbers, row.id, numbers))
            session.keep(row.id, outcomes)
            same[row.policy.id] = (row.id, numbers)
            remaining = (len(missing) - done - 1) * n * session.clock.seconds_an_example
            session.report(split, done + 1, len(missing), remaining, board)
        if skipped:
            session.notes.append(f"time was up before {', '.join(skipped)} could be measured on {split}")

    def _front(self, rows: Sequence[TrialRow], split: str) -> list[TrialRow]:
        """Return the rows on the front; one without some objective's figure is not."""
        mask = non_dominated(self._points(rows, split), [m.maximise for m in self.session.objectives])
        return [r for r, on in zip(rows, mask, strict=True) if on]

    def _points(self, rows: Sequence[TrialRow], split: str) -> np.ndarray:
        objectives = self.session.objectives
        missing = (np.nan,) * len(objectives)
        found = [point(r, objectives, split) or missing for r in rows]
        return np.array(found).reshape(-1, len(objectives))

    # --- what it says ---

    def members(self) -> tuple[tuple[Member, ...], tuple[Member, ...], str]:
        """Return front, references, and the split the front rests on."""
        rows = self._rows()
        front = self.front(rows)
        split = "selection" if front and front[0].number_of(QUALITY.name, "selection") else "search"
        references = self._in_order([r for r in rows if r.role == "reference"])
        return tuple(member(r) for r in front), tuple(member(r) for r in references), split

    def claims(self) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
        """Return the claims that held-out data allows, and a line for each that cannot be made, with the reason."""
        rows, session = self._rows(), self.session
        looks = len(session.store.looks(session.name, "held-out"))
        return claims(
            self.front(rows), rivals(rows, self._within), session.outcomes, looks, session.objectives
        )

    def power(self) -> str:
        """Say which difference the held-out examples will show; the spread is the stored one where there is one."""
        session, wanted = self.session, self.session.spec.heldout_examples
        rows = [] if session.store.study(session.name) is None else self._rows()
        return detectable(rows, session.outcomes, session.available("held-out", wanted), wanted)

    def disagreement(self) -> str | None:
        """Say where the two conventions of counting FLOPs name different winners, None where they agree."""
        return disagreement(self._rows(), self._within)

    def _within(self, row: TrialRow) -> bool:
        return all(v <= 0 for v in self.session.violations(row.costs).values())

    def _rows(self) -> list[TrialRow]:
        return [r for r in self.session.store.trials(self.session.name) if r.state == "complete"]

    def _in_order(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        """Uncompressed and baselines first, then presets by their quality on search: the likeliest rivals."""
        first = ("uncompressed", *BASELINES)
        return sorted(
            rows,
            key=lambda r: (
                first.index(r.label) if r.label in first else len(first),
                -quality(r, "search"),
            ),
        )


def _distinct(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The first trial of each policy."""
    found: dict[str, TrialRow] = {}
    for row in rows:
        found.setdefault(row.policy.id, row)
    return list(found.values())
