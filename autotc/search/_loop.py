"""The trial loop of one worker: ask or adopt, lease, evaluate, store, tell."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from optuna.trial import FrozenTrial

from autotc._outcomes import Outcomes
from autotc.device.gauge import MEASURED, Gauged
from autotc.policy import Number, Policy
from autotc.search import _fidelity
from autotc.search._choosing import Chooser, policy_of
from autotc.search._dimensions import counts
from autotc.search._fidelity import Sight
from autotc.search._ledger import Ledger, age_s
from autotc.search._patience import beating, held
from autotc.search._racing import dominated, gap
from autotc.search._session import SURVIVABLE, Board, Entry, Session
from autotc.search.objectives import FAILED, QUALITY, broken, point, told
from autotc.search.plateau import Gain, Plateau
from autotc.search.strategies.spread import budget_place
from autotc.store import TrialRow

ORPHAN_S = 10.0  # a trial without a policy is adopted when its asker has been silent for so long
POLL_S = 0.2


class Loop:
    """Runs trials until there are enough, time is up, or the caller says stop.

    Args:
        session: what this run shares.
        ledger: Optuna's side of the study.
        worker: a name no other process has.
        lease_s: a trial whose worker has been silent for so long is taken up by another one.
        reserve_s: returns the seconds to leave for the steps after the trials.
        alive: asked before each trial; False ends the loop.
        leave: asked when others have all that is left in hand; True ends the loop.
    """

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        worker: str,
        lease_s: float,
        reserve_s: Callable[[Board], float] = lambda board: 0.0,
        alive: Callable[[], bool] = lambda: True,
        leave: Callable[[], bool] = lambda: False,
    ) -> None:
        self.session, self.ledger, self.worker, self.lease_s = session, ledger, worker, lease_s
        self._reserve_s, self.alive, self.leave = reserve_s, alive, leave
        self.board = Board(objectives=session.objectives)
        self.exhausted = False  # whether the strategy had nothing more to try before there were enough
        spec = session.spec
        self._plateau: Plateau | None = None
        if spec.until == "plateau":
            self._plateau = Plateau(session.objectives, ledger.starts, spec.seed)
        self._results: dict[str, TrialRow] = {}
        self._references: dict[tuple[object, ...], Policy] = {}
        self._seen: set[int] = set()
        self._at = -1  # how often the study had changed at the last look
        self._reaped = -lease_s
        self._choose = None
        if not spec.sampled:
            # two workers that ask at the same time are not to propose the same
            seed = spec.seed if spec.workers == 1 else zlib.crc32(f"{spec.seed} {worker}".encode())
            self._choose = Chooser(spec.strategy, session.space, seed, session.objectives)

    def run(self) -> bool:
        """Run trials; return whether the study has all of its trials."""
        patiently = self.session.patiently
        patiently(self.refresh)
        while self.alive():
            patiently(self._reap)
            if self._time_is_up():
                return False
            job = patiently(lambda: self._adopt() or self._ask())
            if job is None:
                if not patiently(self.ledger.running):
                    patiently(self.refresh)
                    short = patiently(self.ledger.count) < self.session.spec.trials
                    self.exhausted = short and self.plateau() is None
                    return True
                if self.leave():
                    return False
                time.sleep(POLL_S)  # other workers are busy with the last ones
                continue
            self._do(*job)
            self._report()
        return False

    def plateau(self) -> Gain | None:
        """Return what the last trials brought where the search stops for that, None where it goes on."""
        return None if self._plateau is None else self._plateau.reached(self.board.finished)

    def refresh(self) -> None:
        """Read the trials that were finished since the last look, by whoever."""
        self._at, rows = self.session.store.changed(self.session.name, self._at)
        for row in rows:
            if row.state != "running" and row.id not in self._seen:
                self._take(row)

    def _take(self, row: TrialRow) -> None:
        self._seen.add(row.id)
        quality = row.number_of(QUALITY.name, "search")
        if row.state == "complete" and quality is not None and (quality.n or 0) >= self.session.search_n:
            self._results.setdefault(row.policy.id, row)
        if row.role != "trial":
            self._references.setdefault(self._counts(row.policy), row.policy)
            if not row.policy.stages and quality is not None:
                self.board.full = quality.value
            return
        self.board.finished += 1
        values = point(row, self.session.objectives)
        if values is not None and self.session.feasible(row):
            seconds = row.seconds / self.session.search_n if row.seconds else None
            self.board.entries.append(Entry(row.id, row.number or 0, row.policy.id, values, seconds))
            if self._plateau is not None:
                self._plateau.add(self.board.finished, self.session.outcomes(row.id, "search"), values)

    def _reap(self) -> None:
        now = time.monotonic()
        if now - self._reaped > self.lease_s / 4:
            self._reaped = now
            self.session.store.reap(self.lease_s)

    # --- getting a trial ---

    def _time_is_up(self) -> bool:
        left = self.session.clock.left_s
        return left is not None and left <= self._reserve_s(self.board)

    def _ask(self) -> tuple[FrozenTrial, int, Policy] | None:
        session = self.session
        if self.plateau() is not None:
            return None  # what is running elsewhere is waited for, as at the last trial
        with session.clock.part("ask"):
            given = self._given if session.spec.strategy == "default" else None
            trial = self.ledger.ask(session.space.distributions, session.spec.trials, given, self._choose)
        return None if trial is None else self._enter(trial)

    def _given(self, number: int) -> dict[str, Any]:
        """Spread the budgets evenly over the range, so that the whole front is searched.

        Left to a sampler, proposals gather where the first good trials were: with published presets at the
        start, at the limit.
        """
        space = self.session.space
        place = budget_place(self.session.spec.seed, number)
        return {"budget": space.low * (space.high / space.low) ** place}

    def _enter(self, trial: FrozenTrial) -> tuple[FrozenTrial, int, Policy] | None:
        session = self.session
        with session.clock.part("decode"):
            policy = policy_of(trial, session.space)
            policy = self._references.get(self._counts(policy), policy)
        with session.clock.part("store"):
            trial_id = session.store.add_trial(session.name, trial.number, policy, params=trial.params)
            held = session.store.lease(trial_id, self.worker, self.lease_s)
        return (trial, trial_id, policy) if held else None

    def _counts(self, policy: Policy) -> tuple[object, ...]:
        space = self.session.space
        return counts(
            policy, (space.full.visual_tokens(r.width, r.height, r.images) for r in space.workload.requests)
        )

    def _adopt(self) -> tuple[FrozenTrial, int, Policy] | None:
        """Take up a trial whose worker is gone; what it had stored is told, the rest is run."""
        store, name = self.session.store, self.session.name
        running = {frozen.number: frozen for frozen in self.ledger.running()}
        held = store.held(name, running, self.worker) if running else set()
        running = {n: frozen for n, frozen in running.items() if n not in held}
        if not running:
            return None
        rows = {r.number: r for r in store.trials(name, numbers=running)}
        for frozen in running.values():
            row = rows.get(frozen.number)
            if row is None:
                # by another clock it may be of any age: then the lease decides who runs it
                if abs(age_s(frozen)) > ORPHAN_S and not self.ledger.drop(frozen, self.session.spec.trials):
                    return self._enter(frozen)
            elif row.state != "running":
                self._tell_stored(frozen, row)
            elif store.lease(row.id, self.worker, self.lease_s):
                return frozen, row.id, row.policy
        return None

    def _tell_stored(self, frozen: FrozenTrial, row: TrialRow) -> None:
        if row.finished is not None and self._fresh(row):
            return  # its worker is about to tell
        figures: dict[str, float | None] = {n.name: n.value for n in row.numbers if n.split == "search"}
        if row.state == "screened" and self.session.screen is not None:
            figures[QUALITY.name] = _fidelity.told(row.numbers, self.session.screen.line)
        values = told(figures, row.costs, self.session.objectives)
        self.ledger.tell(frozen, values, row.violations)

    @staticmethod
    def _fresh(row: TrialRow) -> bool:
        assert row.finished is not None
        return abs(time.time() - row.finished.timestamp()) < 2.0  # clocks may differ by more, and be set back

    # --- doing it ---

    def _do(self, trial: FrozenTrial, trial_id: int, policy: Policy) -> None:
        session = self.session
        costs = session.cost(policy).as_dict()
        limits = session.spec.all_constraints()
        measured = Gauged()
        if session.gauge is not None and not broken([c for c in limits if c.name not in MEASURED], costs):
            with session.clock.part("measure"), held(session.store, trial_id, self.worker, self.lease_s):
                measured = session.gauge(policy)
            costs |= measured.costs
        violations = session.violations(costs)
        if measured.need_gib is not None:
            room = min([measured.have_gib, *(c.limit for c in limits if c.name == "memory_gib")])
            why: dict[str, Any] = {"state": "infeasible", "reason": measured.why}
            self._finish(
                trial, trial_id, None, costs, {**violations, "memory_gib": measured.need_gib - room}, why
            )
            return
        over = broken(limits, costs)
        if over:
            words = f"over the limit: {', '.join(over)}"
            why = {"state": "infeasible", "reason": words, "numbers": list(measured.numbers)}
            self._finish(trial, trial_id, None, costs, violations, why)
            return
        twin = self._results.get(policy.id)
        if twin is not None:
            self._repeat(trial, trial_id, twin, violations, measured)
            return
        begin = time.monotonic()
        try:
            with held(session.store, trial_id, self.worker, self.lease_s):
                sight, rival = self._look(policy, costs)
                if sight is not None and rival is not None and sight.high < rival.quality:
                    self._screen_out(trial, trial_id, sight, rival, costs, violations, begin)
                    return
                run = partial(self._race, policy, costs)
                outcomes, reason, quality = session.insist(trial_id, run)
        except SURVIVABLE as error:
            why = {"state": "failed", "reason": session.failed(error)}
            self._finish(trial, trial_id, None, costs, {**violations, FAILED: 1.0}, why)
            return
        session.failures = 0
        costs = {**session.cost(policy, outcomes.trace).as_dict(), **measured.costs}
        numbers = session.evaluator.numbers(outcomes)
        done: dict[str, Any] = {
            "numbers": [*numbers, *(sight.numbers if sight is not None else ()), *measured.numbers],
            "reason": reason or measured.why,
            "outcomes": {"search": outcomes},
            "trace": [{"stage": i, **_trace(t)} for i, t in enumerate(outcomes.trace)],
            "seconds": time.monotonic() - begin,
        }
        session.keep(trial_id, outcomes)
        quality = _value(numbers) if quality is None else quality
        self._finish(trial, trial_id, quality, costs, session.violations(costs), done)

    def _incumbent(self, costs: dict[str, Any]) -> Entry | None:
        return self.board.incumbent(*(m.of(costs) for m in self.session.objectives if m.on_cost))

    def _look(self, policy: Policy, costs: dict[str, Any]) -> tuple[Sight | None, Entry | None]:
        """Return what the proxy says of a policy, and the trial it would have to beat."""
        screening, full = self.session.screening, self.board.full
        if screening is None or full is None:
            return None, None
        rival = self._incumbent(costs)
        if rival is None:
            return None, None
        with self.session.clock.part("screen"):
            return screening.look(policy, full), rival

    def _screen_out(
        self,
        trial: FrozenTrial,
        trial_id: int,
        sight: Sight,
        rival: Entry,
        costs: dict[str, Any],
        violations: dict[str, float],
        begin: float,
    ) -> None:
        """Store a trial that the model does not run; the sampler learns the least it may be worth."""
        proxy, predicted = sight.numbers
        done = {
            "state": "screened",
            "numbers": sight.numbers,
            "reason": f"screened out: {100 * proxy.value:.1f} % on the proxy, so at most {100 * sight.high:.1f} % on "
            f"the model (predicted {100 * predicted.value:.1f} %), where trial {rival.number}, which costs no more, "
            f"has {100 * rival.quality:.1f} %",
            "seconds": time.monotonic() - begin,
        }
        self._finish(trial, trial_id, sight.low, costs, violations, done)

    def _repeat(
        self,
        trial: FrozenTrial,
        trial_id: int,
        twin: TrialRow,
        violations: dict[str, float],
        measured: Gauged,
    ) -> None:
        """Answer a policy that was run before from the store."""
        session = self.session
        outcomes = session.outcomes(twin.id, "search")
        name = twin.label if twin.role == "reference" else f"trial {twin.number}"
        numbers = [*(n for n in twin.numbers if n.split == "search"), *measured.numbers]
        session.keep(trial_id, outcomes)
        done = {
            "numbers": numbers,
            "reason": f"same policy as {name}: answered from the store",
            "outcomes": {"search": outcomes},
            "trace": twin.trace,
            "seconds": 0.0,
            "environment": twin.environment_id,
        }
        self._finish(trial, trial_id, _value(numbers), {**twin.costs, **measured.costs}, violations, done)

    def _race(self, policy: Policy, costs: dict[str, Any]) -> tuple[Outcomes, str | None, float | None]:
        """Evaluate on more and more examples.

        Returns:
            Outcomes; why it was stopped, None when it was not; and then what the sampler is told: the
            incumbent's quality less the paired difference, which is comparable with full evaluations.
        """
        session = self.session
        outcomes: Outcomes | None = None
        steps = session.rungs()
        for total in steps:
            done = 0 if outcomes is None else len(outcomes)
            more = session.evaluate(policy, "search", total - done, done)
            outcomes = more if outcomes is None else outcomes + more
            if total == steps[-1]:
                break
            best = self._incumbent(costs)
            if best is None:
                continue
            rival = session.outcomes(best.trial_id, "search")
            if dominated(outcomes, rival):
                reason = f"stopped after {total} of {steps[-1]} examples: dominated by trial {best.number}"
                return outcomes, reason, max(0.0, best.quality - gap(outcomes, rival))
        assert outcomes is not None
        return outcomes, None, None

    def _finish(
        self,
        trial: FrozenTrial,
        trial_id: int,
        quality: float | None,
        costs: dict[str, Any],
        violations: dict[str, float],
        done: dict[str, Any],
    ) -> None:
        session = self.session
        patiently = session.patiently
        given = {"environment": session.environment, **done}
        finish = partial(session.store.finish_trial, trial_id, costs=costs, violations=violations, **given)
        renew = partial(session.store.renew, trial_id, self.worker, self.lease_s)
        store, part = session.store, session.clock.part("store")
        with part, store.in_hand(trial_id), beating(store, renew, self.lease_s):  # while the database is away
            kept = patiently(finish)
        if kept:
            with session.clock.part("tell"):
                figures = {n.name: n.value for n in done.get("numbers", ()) if n.split == "search"}
                values = told({**figures, QUALITY.name: quality}, costs, session.objectives)
                patiently(lambda: self.ledger.tell(trial, values, violations))
        else:  # another worker took this one for dead and was faster: the first result counts, and is told
            session.forget(trial_id, "search")
        with session.clock.part("store"):
            patiently(self.refresh)

    def _report(self) -> None:
        clock, spec = self.session.clock, self.session.spec
        done = self.board.finished
        left = None
        if clock.examples:
            mean = clock.seconds_an_example * spec.examples
            left = max(0, spec.trials - done) * mean / spec.workers + self._reserve_s(self.board)
            left = left if clock.left_s is None else min(left, clock.left_s)
        self.session.report("trials", done, spec.trials, left, self.board)


def _trace(trace: dict[str, Any]) -> dict[str, float]:
    return {"asked": float(trace["asked"]), "kept": float(trace["kept"])}


def _value(numbers: list[Number]) -> float | None:
    return next((n.value for n in numbers if n.name == QUALITY.name), None)
