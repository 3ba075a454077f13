"""What Ray's workers search on in tests: the fake models, with a line in a file for each evaluation."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autotc._outcomes import Outcomes
from autotc.policy import Policy
from autotc.search.setting import Setting
from autotc.search.spec import SearchSpec
from tests.fakes import FakeEvaluator
from tests.search.test_study import SETTING


@dataclass
class Noted(FakeEvaluator):
    """Writes `process split policy start time` when it has evaluated.

    Once there is a file `killed` beside the log it waits until a fourth process has come (the command, two
    actors, and the successor of the killed one); on a slow machine the others would else be done before.
    """

    log: str = ""

    def evaluate(self, policy: Policy | None, split: str, n: int, *, start: int = 0) -> Outcomes:
        """Return outcomes of examples start..start+n-1."""
        found = super().evaluate(policy, split, n, start=start)
        end = time.monotonic() + 120
        while Path(f"{self.log}.killed").exists() and len(came(self.log)) < 4 and time.monotonic() < end:
            time.sleep(0.05)
        with Path(self.log).open("a") as file:
            file.write(
                f"{os.getpid()} {split} {'full' if policy is None else policy.id} {start} {time.time()}\n"
            )
        return found


def came(log: str) -> set[int]:
    """Return the processes that prepared to work."""
    return {int(line) for line in Path(f"{log}.came").read_text().split()}


def noted(delay_s: float, log: str, workers: int) -> Noted:
    """Make such an evaluator."""
    return Noted(delay_s=delay_s, log=log)


def prepare(delay_s: float, log: str, spec: SearchSpec) -> Setting:
    """Prepare the fake models, and note which process does."""
    with Path(f"{log}.came").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return replace(SETTING, evaluator=partial(noted, delay_s, log))


def refuse(spec: SearchSpec) -> Setting:
    """Fail as a machine without the data does."""
    from autotc.errors import DataError

    raise DataError("/data/my.jsonl: cannot be read")
