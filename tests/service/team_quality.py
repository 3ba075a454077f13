"""Is a front that four workers find together as good as that of one with as many trials? On a known truth.

    python -m tests.service.team_quality --seeds 8 --out studies/service

Worker threads share a database and nothing else; each evaluation takes a moment, so that they propose side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from autotc.environment import environment
from autotc.pareto import hypervolume
from autotc.search.setting import Setting
from autotc.search.team import TeamStudy
from autotc.service import page
from autotc.store import Store
from tests.fakes import FULL, PROXY, FakeEvaluator, accept, true_quality
from tests.search.test_study import SPEC, VQA

TRIALS = 100


def run(workers: int, seed: int, delay_s: float) -> dict[str, Any]:
    """Search with some workers and return the true volume of what they found, and how many policies were different."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/autotc.db")
        store.upgrade()
        spec = SPEC.model_copy(update={"study": "s", "trials": TRIALS, "seed": seed})
        setting = Setting(FULL, PROXY, "fake", VQA, lambda n: FakeEvaluator(delay_s=delay_s), check=accept)
        failed: list[BaseException] = []

        def work(name: str) -> None:
            try:
                team = TeamStudy(spec, Store(store.url), setting, worker=name)
                team.work()
                team.rest()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(f"worker-{i}",)) for i in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        rows = store.trials("s", role="trial")
        full = next(r for r in store.trials("s", role="reference") if not r.policy.stages)
        store.close()
    corner = full.costs["tflops_exact"]
    points = [[true_quality(r.policy), r.costs["tflops_exact"]] for r in rows if r.state == "complete"]
    return {
        "workers": workers,
        "seed": seed,
        "trials": len(rows),
        "volume": hypervolume(points, (0.0, corner), maximise=(True, False)) / corner,
        "different": len({r.policy.id for r in rows}),
    }


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument(
        "--delay", type=float, default=0.3, help="seconds of an evaluation beside other workers"
    )
    parser.add_argument("--out", type=Path, help="folder of the page")
    given = parser.parse_args()
    runs, before = [], os.getloadavg()
    for seed in range(given.seeds):
        for workers in (1, 4):
            runs.append(run(workers, seed, given.delay if workers > 1 else 0.0))
            print(json.dumps(runs[-1]), file=sys.stderr)
    one, four = (np.array([r["volume"] for r in runs if r["workers"] == n]) for n in (1, 4))
    difference = four - one
    n = len(difference)
    found = {
        "runs": runs,
        "one": float(one.mean()),
        "four": float(four.mean()),
        "difference": float(difference.mean()),
        "stderr": float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        "spread_of_one": float(one.std(ddof=1)) if n > 1 else None,
        "environment": environment(),
        "load": {"before": before, "after": os.getloadavg()},
    }
    if given.out is not None:
        page.write(given.out, "team", found)
    print(json.dumps({k: v for k, v in found.items() if k != "runs"}, indent=1))


if __name__ == "__main__":
    main()
