"""More workers: processes that run the trial loop on the same study."""

from __future__ import annotations

import multiprocessing
import os
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autotc.errors import StoreError

if TYPE_CHECKING:
    from autotc.search.setting import Setting
    from autotc.search.study import Study

JOIN_S = 5.0


class Crew:
    """The other workers of a study, alive inside a `with` block; the caller is a worker itself.

    Args:
        study: what to run.
        deadline: `time.monotonic()` after which no trial is started.
    """

    def __init__(self, study: Study, deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        context = multiprocessing.get_context("spawn")
        work: tuple[Any, ...] = (
            study.spec,
            study.store.url,
            study.setting,
            study.name,
            left,
            study.lease_s,
            study._session.search_n,
            study._session.environment,
            os.getpid(),
        )
        self._processes = [
            context.Process(target=_work, args=work, name=f"autotc-worker-{i}", daemon=True)
            for i in range(1, study.spec.workers)
        ]

    def __enter__(self) -> Crew:
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = time.monotonic() + JOIN_S
        for process in self._processes:
            if kind is None:
                process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.terminate()  # its trial, if any, is taken up when the lease runs out
                process.join()


def _work(
    spec: Any,
    url: str,
    setting: Setting,
    name: str,
    left_s: float | None,
    lease_s: float,
    search_n: int,
    environment: int | None,
    parent: int,
) -> None:
    """Run trials in a process of its own until there are enough, time is up or the parent is gone."""
    from autotc.search._clock import Clock
    from autotc.search._loop import Loop
    from autotc.search._patience import Patience
    from autotc.search._report import Report
    from autotc.search._session import Session
    from autotc.search.space import Space
    from autotc.search.study import open_ledger, worker_name
    from autotc.store import Store

    space = Space(
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
    store = Store(url, check=False)

    def parent_lives() -> bool:
        return os.getppid() == parent

    patiently = Patience(parent_lives, store=store)  # the parent says what is to be said
    session = Session(
        spec, store, name, space, setting.on, lambda: setting.evaluator(spec.workers), Clock(left_s)
    )
    session.sizes, session.search_n, session.screen = setting.sizes, search_n, setting.screen
    session.environment, session.patiently = environment, patiently
    report = Report(session)
    report.start()
    try:
        ledger = patiently(lambda: open_ledger(store, name, spec))
        try:
            Loop(session, ledger, worker_name(), lease_s, report.reserve_s, alive=parent_lives).run()
        finally:
            ledger.close()
    except (KeyboardInterrupt, StoreError):
        pass  # the parent sees the same and says it
    finally:
        store.close()
