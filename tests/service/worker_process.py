"""A worker in a process of its own, on fake models: `python -m tests.service.worker_process URL DELAY_S GRACE_S`."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from autotc.errors import AutotcError
from autotc.service.stopping import Stopping
from autotc.service.worker import Worker
from autotc.store import Store
from tests.fakes import FakeEvaluator
from tests.search.test_study import SETTING


def slow(delay_s: float, workers: int) -> FakeEvaluator:
    """Make an evaluator that takes its time."""
    return FakeEvaluator(delay_s=delay_s)


def main(url: str, delay_s: float, grace_s: float) -> None:
    """Work until everything is done or a signal comes."""
    setting = replace(SETTING, evaluator=partial(slow, delay_s))
    try:
        with Stopping(grace_s) as stopping:
            Worker(
                Store(url), lambda spec: setting, stopping, drain=True, say=partial(print, flush=True)
            ).run()
    except KeyboardInterrupt:
        sys.exit(130)
    except AutotcError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
