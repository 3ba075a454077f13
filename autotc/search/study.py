"""One study: references, trials, the front confirmed and compared, and what to type next."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial

from autotc.device.gauge import MEASURED
from autotc.environment import environment
from autotc.errors import SpecError
from autotc.recommend import recommend
from autotc.search._choosing import Chooser, is_point
from autotc.search._clock import Clock
from autotc.search._inverse import encode
from autotc.search._ledger import Ledger
from autotc.search._loop import Loop
from autotc.search._patience import Patience
from autotc.search._references import examples_of, measure_reference, references, refuse_missing
from autotc.search._report import Report
from autotc.search._session import Board, Progress, Session
from autotc.search._workers import Crew
from autotc.search.plateau import Gain
from autotc.search.reach import refuse_out_of_reach
from autotc.search.result import Result
from autotc.search.setting import Setting
from autotc.search.space import Space
from autotc.search.spec import SearchSpec, differences, fingerprint
from autotc.store import Store, StudyRow

LEASE_S = 20.0


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
        patiently: what becomes of work that a database which is away could not take; by default the run ends.

    Raises:
        SpecError: the limits are below the floor of the space; nothing has been written then.
    """

    spec: SearchSpec
    store: Store
    setting: Setting
    progress: Callable[[Progress], None] | None = None
    started: float | None = None
    lease_s: float = LEASE_S
    patiently: Patience = field(default_factory=Patience, kw_only=True)
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
            patiently=self.patiently,
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

        Ctrl-C gives the front so far as a result with the state "interrupted". Each step can be done again, and goes
        on where it was, when the database was away meanwhile.

        Raises:
            SpecError: the study of this name was started with other settings; the message names them.
            StoreError: the database cannot be written (any more); what was stored stays readable.
            KeyboardInterrupt: while the database was away, so that no front can be shown.
        """
        patiently = self.patiently
        there = patiently(lambda: self.store.study(self.name))
        self._refuse(there)
        finished = 0 if there is None else sum(v for k, v in there.counts.items() if k != "running")
        if there is not None and there.state == "finished" and finished >= self.spec.trials:
            patiently(self._create)  # the limits of this run are now those the front is shown under
            return patiently(partial(self._result, "finished", finished, finished))
        self._session.notes.append(patiently(lambda: self.power))
        patiently(self._create)
        before = finished
        state = "interrupted"
        try:
            patiently(lambda: self.store.set_study_state(self.name, "running"))
            state = "finished" if patiently(self._trials) else "stopped"
            patiently(self._note_screened)
            patiently(self._measure)
        except KeyboardInterrupt:
            if patiently.waiting:
                patiently.say("What was stored before is kept: the same command goes on.")
                raise
            state = "interrupted"
        patiently(lambda: self.store.set_study_state(self.name, state))
        return patiently(lambda: self._result(state, self._finished(), before))

    # --- steps ---

    def _refuse(self, there: StudyRow | None) -> None:
        if there is None or there.fingerprint == self.fingerprint:
            return
        different = differences(there.spec, self.document) or ["the version of autotc"]
        raise SpecError(
            f"--study: {self.name!r} in {self.store.url_shown} was started with other settings: "
            f"{'; '.join(different)}. Use the same settings, or another name"
        )

    def _refuse_other_space(self, ledger: Ledger) -> None:
        """Another version may have had other parameters: its trials would stand for other policies now."""
        ours = set(self.space.distributions)
        other = [
            t for t in ledger.trials() if t.state.is_finished() and is_point(t) and set(t.params) != ours
        ]
        if other:
            raise SpecError(
                f"--study: {self.name!r} in {self.store.url_shown} has {len(other)} trials of another version of "
                "autotc, whose policies had other parameters: a search cannot go on from them. Use another name; "
                f"what is there can be read: autotc front --study {self.name}"
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
        self._refuse_other_space(ledger)
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
                measure_reference(session, trial_id, label)
                row = self.store.trial(trial_id)
            if not policy.stages:
                refuse_missing(session, row)
                session.search_n = examples_of(row, self.spec)
            session.report("references", done + 1, len(wanted), None, self._board)
        return True

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
        notes = list(session.notes)
        if self._exhausted:
            notes.append(
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
            notes=tuple(dict.fromkeys(notes)),  # a step that was done again may have said one twice
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
