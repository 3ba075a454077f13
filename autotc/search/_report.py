"""After the trials: the front is confirmed on the selection split, claims are made on the held-out one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotc.export import Member, member
from autotc.pareto import non_dominated
from autotc.search._claims import Claim, Comparison, conclude, power, spread
from autotc.search._session import SURVIVABLE, Board, Session
from autotc.search.objectives import COST, QUALITY
from autotc.store import TrialRow

MOST_CANDIDATES = 12
BASELINES = ("random", "downsample")
FIRST = ("uncompressed", *BASELINES)
PRESETS_ON_SELECTION = 4  # the likeliest rivals; the other presets follow while there is time
MOST_OF_TIME = 0.6


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
        spec, clock = self.session.spec, self.session.clock
        points = board.points()
        front = int(non_dominated(points, maximise=(True, False)).sum()) if len(points) else 0
        candidates = min(MOST_CANDIDATES, front + 2)
        runs = (candidates + len(FIRST) + PRESETS_ON_SELECTION) * spec.selection_examples
        runs += (front + len(FIRST) + 1) * spec.heldout_examples
        needed = 1.15 * runs * clock.seconds_an_example
        # on a slow machine trials still get a share of the time; the last steps then end late
        return needed if self._time_s is None else min(needed, MOST_OF_TIME * self._time_s)

    # --- measuring ---

    def measure(self, board: Board) -> None:
        """Measure candidates and references on selection, then the front and references on held-out."""
        session, spec = self.session, self.session.spec
        rows = self._rows()
        chosen = self.candidates([r for r in rows if r.role == "trial"])
        if not chosen:
            return
        references = self._in_order([r for r in rows if r.role == "reference"])
        needed = len(chosen) + len(FIRST) + PRESETS_ON_SELECTION
        final_s = (len(chosen) + len(FIRST) + 1) * spec.heldout_examples * session.clock.seconds_an_example
        self._pass("selection", spec.selection_examples, [*chosen, *references], needed, board, final_s)
        rows = self._rows()
        compared = [*self.front(rows), *self._rivals(rows)]
        self._pass("held-out", spec.heldout_examples, compared, len(compared), board)
        front = self.front(self._rows())
        if front:
            session.store.publish_front(session.name, self.budget(), [r.id for r in front])

    def candidates(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        """Return the trials worth a second look: the front on the search split, then those behind it."""
        left = _distinct([r for r in rows if self.session.feasible(r)])
        found: list[TrialRow] = []
        while left and len(found) < MOST_CANDIDATES:
            layer = _front(left, "search")
            if found and len(found) + len(layer) > MOST_CANDIDATES:
                break
            found += layer
            left = [r for r in left if r not in layer]
        return found

    def front(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        """Return the front on selection (on search before that), within the limits, cheapest first."""
        trials = _distinct([r for r in rows if r.role == "trial" and self.session.feasible(r)])
        for split in ("selection", "search"):
            measured = [r for r in trials if r.number_of(QUALITY.name, split) is not None]
            if measured:
                return sorted(_front(measured, split), key=lambda r: r.costs[COST.name])
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
            if i >= needed and left is not None and left <= later_s:
                skipped.append(row.label or str(row.number))
                continue
            try:
                if row.policy.id in same:  # a proposal may be a preset
                    twin, numbers = same[row.policy.id]
                    outcomes = session.outcomes(twin, split)
                else:
                    outcomes = session.evaluate_fully(row.policy, split, n)
                    numbers = session.evaluator.numbers(outcomes)
            except SURVIVABLE as error:
                session.notes.append(
                    f"{_name(row)} could not be measured on {split}: {session.failed(error)}"
                )
                continue
            session.failures = 0
            with session.clock.part("store"):
                session.store.add_outcomes(row.id, split, outcomes)
                session.store.add_numbers(row.id, numbers)
            session.keep(row.id, outcomes)
            same[row.policy.id] = (row.id, numbers)
            remaining = (len(missing) - done - 1) * n * session.clock.seconds_an_example
            session.report(split, done + 1, len(missing), remaining, board)
        if skipped:
            session.notes.append(f"time was up before {', '.join(skipped)} could be measured on {split}")

    # --- what it says ---

    def members(self) -> tuple[tuple[Member, ...], tuple[Member, ...], str]:
        """Return front, references, and the split the front rests on."""
        rows = self._rows()
        front = self.front(rows)
        split = "selection" if front and front[0].number_of(QUALITY.name, "selection") else "search"
        references = self._in_order([r for r in rows if r.role == "reference"])
        return tuple(member(r) for r in front), tuple(member(r) for r in references), split

    def claims(self) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
        """Compare the front with the best preset, the baselines and the uncompressed model, each at its exact cost.

        The rival preset and the members are chosen on selection; the differences are those on held-out.

        Returns:
            The claims, and a line for each that cannot be made, with the reason.
        """
        rows = self._rows()
        front = [r for r in self.front(rows) if r.number_of(QUALITY.name, "held-out")]
        rivals = [r for r in self._rivals(rows) if r.number_of(QUALITY.name, "held-out")]
        if not front or not rivals:
            missing = "the front" if not front else "what it would be compared with"
            return (), (f"No claim is made: {missing} was not measured on held-out examples",)
        number = front[0].number_of(QUALITY.name, "held-out")
        if number is not None and number.unit == "agreement":
            return (), (
                "No claim is made: the data has no answers, so quality is agreement with the uncompressed model, and "
                "agreeing is not being right. Give answers in --data",
            )
        comparisons, refused = [], []
        for rival in rivals:
            mine = self._against(front, rival)
            if mine is None:
                refused.append(
                    f"No claim against {_name(rival)}: no member of the front costs as little by the exact count "
                    f"({rival.costs[COST.name]:.4g} TFLOP per 1,000 requests)"
                )
                continue
            outcomes = (self.session.outcomes(row.id, "held-out") for row in (mine, rival))
            costs = (mine.costs[COST.name], rival.costs[COST.name])
            comparisons.append(Comparison(mine.number or 0, _name(rival), _why(rival), *costs, *outcomes))
        looks = len(self.session.store.looks(self.session.name, "held-out"))
        claims, few = conclude(comparisons, looks)
        return claims, (*refused, *few)

    def power(self) -> str:
        """Say which difference the held-out examples will show; the spread is the stored one where there is one."""
        session, wanted = self.session, self.session.spec.heldout_examples
        there = session.store.study(session.name)
        rows = [] if there is None else self._rows()
        measured = None
        for split in ("held-out", "selection", "search"):
            have = [r for r in rows if r.number_of(QUALITY.name, split) is not None and r.policy.stages]
            plain = next((r for r in have if r.label == "random"), None)
            if plain is not None and len(have) > 1:
                others = [session.outcomes(r.id, split) for r in have if r is not plain]
                measured = spread(others, session.outcomes(plain.id, split))
                break
        return power(session.available("held-out", wanted), wanted, measured)

    def _rivals(self, rows: Sequence[TrialRow]) -> list[TrialRow]:
        """Return what the front is compared with on held-out: the best preset on selection, the baselines, and
        the uncompressed model.
        """
        references = [r for r in rows if r.role == "reference" and r.number_of(QUALITY.name, "selection")]
        within = [r for r in references if r.policy.stages and self._within(r)]
        presets = [r for r in within if r.label not in BASELINES]
        best = [max(presets, key=lambda r: _quality(r, "selection"))] if presets else []
        plain = [r for r in references if not r.policy.stages]
        return [*best, *(r for r in within if r.label in BASELINES), *plain]

    def disagreement(self) -> str | None:
        """Say where the two conventions of counting FLOPs name different winners, None where they agree.

        Each convention gets the cost of plainly keeping random tokens under the limit; the winner is the best
        policy on selection, references included, that costs no more by that count.
        """
        rows = [r for r in self._rows() if r.policy.stages and r.number_of(QUALITY.name, "selection")]
        plain = next((r for r in rows if r.label == "random" and self._within(r)), None)
        if plain is None:
            return None
        winners = {}
        for convention in ("literature", "exact"):
            name = f"tflops_{convention}"
            within = [r for r in rows if r.costs[name] <= plain.costs[name] * (1 + 1e-9)]
            winners[convention] = max(within, key=lambda r: (_quality(r, "selection"), -r.costs[name]))
        one, other = winners["literature"], winners["exact"]
        if one.policy.id == other.policy.id:
            return None
        return (
            f"The two ways of counting name different winners at the cost of random tokens: by the papers' "
            f"count {_name(one)} ({one.policy.describe()}), by the exact count {_name(other)} "
            f"({other.policy.describe()})"
        )

    def _against(self, front: Sequence[TrialRow], rival: TrialRow) -> TrialRow | None:
        limit = rival.costs[COST.name] * (1 + 1e-9)
        cheaper = [r for r in front if r.costs[COST.name] <= limit]
        return max(cheaper, key=lambda r: _quality(r, "selection")) if cheaper else None

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
                -_quality(r, "search"),
            ),
        )


def _front(rows: Sequence[TrialRow], split: str) -> list[TrialRow]:
    points = np.array([[_quality(r, split), r.costs[COST.name]] for r in rows])
    return [r for r, on in zip(rows, non_dominated(points, maximise=(True, False)), strict=True) if on]


def _distinct(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The first trial of each policy."""
    found: dict[str, TrialRow] = {}
    for row in rows:
        found.setdefault(row.policy.id, row)
    return list(found.values())


def _quality(row: TrialRow, split: str) -> float:
    number = row.number_of(QUALITY.name, split)
    return -1.0 if number is None else number.value


def _name(row: TrialRow) -> str:
    return f"trial {row.number}" if row.role == "trial" else str(row.label)


def _why(rival: TrialRow) -> str:
    if not rival.policy.stages:
        return "every token"
    return "baseline" if rival.label in BASELINES else "best preset on selection"
