"""One study: references, trials, the front confirmed and compared, and what to type next."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from autotc.anatomy import Anatomy
from autotc.device.gauge import MEASURED, Gauge, Gauged
from autotc.environment import environment
from autotc.errors import SpecError
from autotc.export import Member
from autotc.optimism import optimism
from autotc.recommend import Recommendation, recommend
from autotc.search._choosing import Chooser
from autotc.search._claims import Claim
from autotc.search._clock import Clock, Profile
from autotc.search._fidelity import Screen
from autotc.search._inverse import encode
from autotc.search._ledger import Ledger
from autotc.search._loop import Loop
from autotc.search._references import references
from autotc.search._report import Report
from autotc.search._session import SURVIVABLE, Board, Evaluates, Progress, Session
from autotc.search._workers import Crew
from autotc.search.objectives import QUALITY, point
from autotc.search.plateau import Gain
from autotc.search.reach import refuse_out_of_reach
from autotc.search.space import Check, Space
from autotc.search.spec import SearchSpec, differences, fingerprint
from autotc.store import Store, StudyRow, TrialRow
from autotc.workload import Workload

__all__ = ["Claim", "Progress", "Result", "Setting", "Study"]

LEASE_S = 20.0


@dataclass(frozen=True)
class Setting:
    """What a search runs on; picklable, so that worker processes can build the same.

    Args:
        full: the model that costs are for.
        evaluated: the model that runs.
        on: how numbers name the evaluated model, e.g. "proxy:qwen2_5_vl-tiny".
        workload: the mix of requests.
        evaluator: makes an evaluator for a number of processes that share the machine.
        data: fingerprint of the examples.
        sizes: examples that each split has, up to the most that are asked for; a split not named has enough.
        timeout: seconds a run may take when the user names none; None for no limit.
        check: raises when a policy does not fit a model; `autotc.apply.check` by default.
        screen: the proxy that looks at proposals before the model runs them; None where it may not.
        gauge: measures latency and memory of a policy on a GPU; None where they stay estimates.
        notes: lines the user should read first.
    """

    full: Anatomy
    evaluated: Anatomy
    on: str
    workload: Workload
    evaluator: Callable[[int], Evaluates]
    data: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    timeout: float | None = None
    check: Check | None = None
    screen: Screen | None = None
    gauge: Gauge | None = None
    notes: tuple[str, ...] = ()


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


@dataclass
class Study:
    """A search that is ready to run.

    Args:
        spec: what was asked.
        store: where everything goes.
        setting: what it runs on.
        progress: called after each step.
        started: `time.monotonic()` when the command started, for the timeout.
        lease_s: silence after which a worker counts as gone.

    Raises:
        SpecError: the limits are below the floor of the space; nothing has been written then.
    """

    spec: SearchSpec
    store: Store
    setting: Setting
    progress: Callable[[Progress], None] | None = None
    started: float | None = None
    lease_s: float = LEASE_S
    space: Space = field(init=False)
    name: str = field(init=False)
    _exhausted: bool = field(init=False, default=False)
    _plateau: Gain | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        spec, setting = self.spec, self.setting
        self.space = Space(
            setting.full,
            setting.evaluated,
            setting.workload,
            spec.max_tflops,
            spec.flops_convention,
            spec.reducers,
            setting.check,
            spec.deploy,
            spec.estimated_limits(),
        )
        # a limit on what is measured is not held against estimates
        limits = [c for c in spec.all_constraints() if not (spec.measure and c.name in MEASURED)]
        refuse_out_of_reach(self.space, limits)
        self.document = {**spec.document(setting.workload, setting.data), "on": setting.on}
        self.fingerprint = fingerprint(self.document)
        self.name = spec.study_name(self.fingerprint)
        timeout = spec.timeout if spec.timeout is not None else setting.timeout
        self._session = Session(
            spec,
            self.store,
            self.name,
            self.space,
            setting.on,
            lambda: setting.evaluator(spec.workers),
            Clock(timeout, self.started),
            self.progress,
            [*setting.notes, *self.space.notes],
            setting.sizes,
            screen=setting.screen,
            gauge=setting.gauge,
        )
        self._report = Report(self._session)
        self._board = Board(objectives=self._session.objectives)
        if spec.compared:  # a space that the strategy cannot search is refused before anything runs
            chooser = Chooser(spec.strategy, self.space, spec.seed, self._session.objectives)
            self._session.notes += [chooser.note] if chooser.note else []

    @cached_property
    def power(self) -> str:
        """A line on the smallest difference that the held-out examples will show, to be read before the run."""
        return self._report.power()

    def run(self) -> Result:
        """Go on with the study of this name, or start it; a finished one is answered from the store.

        Ctrl-C gives the front so far as a result with the state "interrupted".

        Raises:
            SpecError: the study of this name was started with other settings; the message names them.
            StoreError: the database cannot be written (any more); what was stored stays readable.
        """
        there = self.store.study(self.name)
        self._refuse(there)
        finished = 0 if there is None else sum(v for k, v in there.counts.items() if k != "running")
        if there is not None and there.state == "finished" and finished >= self.spec.trials:
            self._create()  # the limits of this run are now those the front is shown under
            return self._result("finished", finished, finished)
        self._session.notes.append(self.power)
        self._create()
        before = finished
        state = "interrupted"
        try:
            self.store.set_study_state(self.name, "running")
            state = "finished" if self._trials() else "stopped"
            self._note_screened()
            self._measure()
        except KeyboardInterrupt:
            state = "interrupted"
        self.store.set_study_state(self.name, state)
        return self._result(state, self._finished(), before)

    # --- steps ---

    def _refuse(self, there: StudyRow | None) -> None:
        if there is None or there.fingerprint == self.fingerprint:
            return
        different = differences(there.spec, self.document) or ["the version of autotc"]
        raise SpecError(
            f"--study: {self.name!r} in {self.store.url_shown} was started with other settings: "
            f"{'; '.join(different)}. Use the same settings, or another name"
        )

    def _create(self) -> None:
        full, evaluated = self.setting.full, self.setting.evaluated
        model = {
            "family": full.family,
            "id": full.id,
            "decoder_layers": full.decoder.layers,
            "vision_blocks": full.vision.blocks,
            "evaluated_decoder_layers": evaluated.decoder.layers,
            "evaluated_vision_blocks": evaluated.vision.blocks,
        }
        self.store.create_study(self.name, self.fingerprint, self.document, model, self.setting.on)

    def _trials(self) -> bool:
        spec = self.spec
        enter = partial(self.store.add_environment, self.name, environment())
        self._session.environment = self._session.patiently(enter)
        ledger = open_ledger(self.store, self.name, spec)
        try:
            if not self._references():
                return False
            if spec.from_presets:
                policies = [
                    r.policy for r in self.store.trials(self.name, role="reference", state="complete")
                ]
                points = [encode(self.space, p) for p in policies]
                ledger.start_from([p for p in points if p is not None])
            self._report.start()
            worker = self._loop(ledger)
            self._board = worker.board
            # all trials may be there, and only the confirmation of the front missing
            if ledger.count() - len(ledger.running()) >= spec.trials:
                worker.refresh()
                return True
            with self._crew():
                complete = worker.run()
            self._exhausted = worker.exhausted
            self._plateau = worker.plateau() if complete else None
            return complete
        finally:
            ledger.close()

    def _measure(self) -> None:
        """Measure on the other splits what was found."""
        self._report.measure(self._board)

    def _loop(self, ledger: Ledger) -> Loop:
        return Loop(self._session, ledger, worker_name(), self.lease_s, self._report.reserve_s)

    def _crew(self) -> AbstractContextManager[object]:
        return Crew(self, self._session.clock.deadline) if self.spec.workers > 1 else nullcontext()

    def _references(self) -> bool:
        """Measure on the search split what every study is compared with; each is entered once.

        Returns:
            Whether all of them are there.
        """
        session = self._session
        wanted = references(self.space, self.spec.all_presets)
        for done, (label, policy) in enumerate(wanted):
            trial_id = self.store.add_trial(self.name, None, policy, role="reference", label=label)
            row = self.store.trial(trial_id)
            if row.state == "running":
                self._reference(trial_id, label)
                row = self.store.trial(trial_id)
            quality = row.number_of(QUALITY.name, "search")
            if not policy.stages:
                self._refuse_missing(row)
                session.search_n = (quality.n if quality is not None else None) or self.spec.examples
            session.report("references", done + 1, len(wanted), None, self._board)
        return True

    def _refuse_missing(self, plain: TrialRow) -> None:
        """Refuse objectives that not even the uncompressed model has a figure for, before any trial."""
        missing = [m.name for m in self._session.objectives if point(plain, (m,)) is None]
        if missing:
            raise SpecError(
                f"--objective: {', '.join(missing)} cannot be measured on this data: the uncompressed model has no "
                "such figure on the search examples. Leave it out, or give more or other examples"
            )

    def _reference(self, trial_id: int, label: str) -> None:
        session = self._session
        policy = self.store.trial(trial_id).policy
        costs = session.cost(policy).as_dict()
        try:
            run = partial(session.evaluate_fully, policy, "search", self.spec.examples)
            outcomes = session.insist(trial_id, run)
        except SURVIVABLE as error:
            if not policy.stages:  # nothing can be measured when the model itself does not run
                raise
            reason = session.failed(error)
            session.notes.append(f"reference {label} could not be run: {reason}")
            self.store.finish_trial(
                trial_id, "failed", costs=costs, reason=reason, environment=session.environment
            )
            return
        session.failures = 0
        measured = Gauged()
        if session.gauge is not None and any(m.name in MEASURED for m in session.objectives):
            measured = session.gauge(policy)  # or trials that are measured would be held against estimates
        costs = {**session.cost(policy, outcomes.trace).as_dict(), **measured.costs}
        finish = partial(
            self.store.finish_trial,
            trial_id,
            numbers=[*session.evaluator.numbers(outcomes), *measured.numbers],
            reason=measured.why,
            costs=costs,
            violations=session.violations(costs),
            outcomes={"search": outcomes},
            trace=[
                {"stage": i, "asked": float(t["asked"]), "kept": float(t["kept"])}
                for i, t in enumerate(outcomes.trace)
            ],
            seconds=outcomes.seconds,
            environment=session.environment,
        )
        if session.patiently(finish):
            session.keep(trial_id, outcomes)

    def _note_screened(self) -> None:
        counts = {} if (row := self.store.study(self.name)) is None else row.counts
        if screened := counts.get("screened", 0):
            self._session.notes.append(
                f"{screened} of {sum(counts.values())} proposals were screened out on the proxy; the others ran on the "
                "model, which alone the front and the claims rest on."
            )

    # --- result ---

    def _finished(self) -> int:
        row = self.store.study(self.name)
        return 0 if row is None else sum(v for k, v in row.counts.items() if k != "running")

    def _result(self, state: str, trials: int, before: int) -> Result:
        session, spec = self._session, self.spec
        if self._exhausted:
            session.notes.append(
                f"{spec.strategy} has nothing more to try after {trials} trials; --trials asked for {spec.trials}."
            )
        front, refs, split = self._report.members()
        claims, no_claims = self._report.claims()
        return Result(
            study=self.name,
            state=state,
            on=self.setting.on,
            front=front,
            split=split,
            references=refs,
            claims=claims,
            no_claims=no_claims,
            disagreement=self._report.disagreement(),
            looks=len(self.store.looks(self.name, "held-out")),
            trials=trials,
            total=self.spec.trials,
            ran=trials - before,
            profile=session.clock.profile(),
            notes=tuple(session.notes),
            next=self._next(state, trials, bool(front)),
            recommendation=recommend(front, split, given=self.spec.all_constraints()) if front else None,
            exhausted=self._exhausted,
            plateau=self._plateau,
        )

    def _next(self, state: str, trials: int, front: bool) -> tuple[str, ...]:
        commands = []
        if self._exhausted:
            pass  # the same command would find nothing more
        elif self._plateau is not None:
            commands.append(f"search on: the same command with --until trials --trials {2 * trials}")
        elif state == "finished":
            commands.append(f"search on: the same command with --trials {2 * max(trials, self.spec.trials)}")
        else:
            commands.append(f"go on: the same command ({trials} of {self.spec.trials} trials are stored)")
        if front:
            commands.append(f"autotc front {self.name} --plot front.html")
            commands.append(f"autotc export {self.name} -o policy.json")
        return tuple(commands)


def open_ledger(store: Store, name: str, spec: SearchSpec) -> Ledger:
    """Return Optuna's side of a study, in the store's database."""
    return Ledger(
        store.url,
        store.url_shown,
        name,
        spec.sampler or "tpe",
        spec.seed,
        spec.workers,
        spec.all_objectives(),
    )


def worker_name() -> str:
    """Return a name that no other process has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
