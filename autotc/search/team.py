"""A study that several workers, on several machines, run together: all they share is the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from autotc.search._ledger import Ledger
from autotc.search._loop import POLL_S, Loop
from autotc.search._patience import beating, held
from autotc.search._references import examples_of, measure_reference, references, refuse_missing
from autotc.search.study import Study, worker_name

__all__ = ["TeamStudy", "worker_name"]


@dataclass
class TeamStudy(Study):
    """One worker's side of a study.

    References and trials go to whoever leases them first, the figures on the other splits to one worker at the
    end. What a worker had in hand when it went away is taken up by another one.

    Args:
        worker: a name no other process has.
        alive: asked often; False ends this worker's part as soon as nothing is in hand.
        leave: asked when others have all that is left in hand; True ends this worker's part.
        others: whether more workers than this one may propose at the same time.
        sharing: workers that share this machine.
    """

    worker: str = ""
    alive: Callable[[], bool] = lambda: True
    leave: Callable[[], bool] = lambda: False
    others: bool = True
    sharing: int = 1

    def __post_init__(self) -> None:
        make = self.setting.evaluator
        self.setting = replace(self.setting, evaluator=lambda workers: make(self.sharing))
        if self.others:  # the sampler has to know
            self.spec = self.spec.model_copy(update={"workers": max(2, self.spec.workers)})
        self.worker = self.worker or worker_name()
        super().__post_init__()

    def work(self) -> bool:
        """Do what there is to do; return whether the study is over, its front measured and published.

        Raises:
            SpecError: the study of this name was started with other settings.
            StoreError: the database refuses for good, or is away and nobody waits.
        """
        self._refuse(self.store.study(self.name))
        self._create()
        there = self.store.study(self.name)
        assert there is not None
        if there.state == "finished" and self._finished() >= self.spec.trials:
            return True
        if not self.store.set_study_state(self.name, "running", was=there.state):
            return False  # another worker ended it in this moment
        complete = self._trials()
        left = self._session.clock.left_s
        timed_out = left is not None and left <= self._report.reserve_s(self._board)
        return (complete or timed_out) and self._close("finished" if complete else "stopped")

    def rest(self) -> None:
        """Give back what this worker holds: leases, and the evaluator with its model."""
        evaluator, self._session._evaluator = self._session._evaluator, None
        close = getattr(evaluator, "close", None)
        if close is not None:
            close()
        self.store.release_all(self.worker)

    def _loop(self, ledger: Ledger) -> Loop:
        loop = super()._loop(ledger)
        loop.worker, loop.alive, loop.leave = self.worker, self.alive, self.leave
        return loop

    def _crew(self) -> AbstractContextManager[object]:
        return nullcontext()

    def _references(self) -> bool:
        store, session = self.store, self._session
        wanted = references(self.space, self.spec.all_presets)
        ids = {
            store.add_trial(self.name, None, policy, role="reference", label=label): (label, policy)
            for label, policy in wanted
        }
        while True:
            left = [r for r in store.trials(self.name, "reference", "running") if r.id in ids]
            session.report("references", len(ids) - len(left), len(ids), None, self._board)
            if not left:
                break
            if not self.alive():
                return False
            mine = next((r for r in left if store.lease(r.id, self.worker, self.lease_s)), None)
            if mine is None:
                if self.leave():
                    return False
                time.sleep(POLL_S)
            else:
                with held(store, mine.id, self.worker, self.lease_s):
                    measure_reference(session, mine.id, ids[mine.id][0])
        full = next(id_ for id_, (_, policy) in ids.items() if not policy.stages)
        plain = store.trial(full)
        refuse_missing(session, plain)
        session.search_n = examples_of(plain, self.spec)
        return True

    def _close(self, state: str) -> bool:
        """Measure the front on the other splits, unless another worker does or did."""
        store, name = self.store, self.name
        while not store.close_study(name, self.worker, self.lease_s):
            if self._closed():
                return True
            if not self.alive() or self.leave():
                return False
            time.sleep(POLL_S)
        if self._closed():
            return True
        with beating(store, lambda: store.close_study(name, self.worker, self.lease_s), self.lease_s):
            self._report.measure(self._board)
        self._session.patiently(lambda: store.set_study_state(name, state))
        return True

    def _closed(self) -> bool:
        row = self.store.study(self.name)
        return row is not None and row.state in ("finished", "stopped")
