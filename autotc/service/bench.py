"""What stored trials cost: a worker's step, fronts and the dashboard's reads among 1,000 to 100,000 of them."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotc.environment import environment
from autotc.errors import SpecError
from autotc.search._choosing import Chooser
from autotc.search._ledger import Ledger
from autotc.search.ledger_sample import add_history
from autotc.search.space import Space
from autotc.search.team import worker_name
from autotc.service.fronts import Fronts
from autotc.service.status import statuses
from autotc.store import Store
from autotc.store.reader import Reader
from autotc.store.sample import Made, fill
from autotc.tables.fronts import FrontView

PARAMETERS = 28
OUTCOMES = 16  # stored of each trial; a search stores 256
FINISHED = 256  # outcomes of the trials that are told
TEAM = 4  # workers of the study that asks and tells
LEASE_S = 600.0
# seconds of ask and tell, besides the sampler, by stored trials; and of the default strategy's own proposal
BARS = {1_000: 0.1, 10_000: 0.2, 100_000: 0.5}
SAMPLER_BAR = {1_000: 0.1}

Say = Callable[[str], None]
Step = dict[str, Any]


def run(url: str | None, trials: int, repeats: int, space: Space, say: Say) -> dict[str, Any]:
    """Fill a database with studies of `trials`, a tenth, a hundredth, and ten of 60; time each of the first three.

    Args:
        url: of a database that is empty, or was filled by an earlier run; None for a SQLite file that is removed.
        repeats: of each step.
        space: whose parameters the trials have, with others up to `PARAMETERS`.

    Raises:
        SpecError: the database holds other studies than an earlier run's.

    Returns:
        {"database", "trials", "environment", "load", "fill_s", "steps": [{"step", "trials", "p50_s", "p99_s", "cpu_s",
        "n", "bar_s"}]}; seconds of wall clock, and of this process's processor time (median).
    """
    with tempfile.TemporaryDirectory() as folder:
        url = url or f"sqlite:///{folder}/autotc.db"
        for i in range(PARAMETERS - len(space.distributions)):
            space.distributions[f"more_{i}"] = FloatDistribution(0.0, 1.0)
        sizes = [trials, trials // 10, trials // 100]
        before, begin = os.getloadavg(), time.perf_counter()
        store = Store(url)
        names = _fill(store, [*sizes, *[60] * 10], space.distributions, say)
        took = time.perf_counter() - begin
        steps: list[Step] = []
        for size, name in reversed(list(zip(sizes, names, strict=False))):
            say(f"a study of {size:,} trials: a worker's step, fronts, reads")
            steps += _worker(store, name, size, repeats, space)
            steps += _readers(store, name, size, repeats)
        version = store.engine.dialect.server_version_info
        database = f"{store.engine.dialect.name} {'.'.join(map(str, version or ()))}"
        store.close()
    return {
        "database": database,
        "trials": sum(sizes) + 600,
        "parameters": PARAMETERS,
        "environment": environment(),
        "load": {"before": before, "after": os.getloadavg()},
        "fill_s": took,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "steps": steps,
    }


def _fill(
    store: Store, sizes: list[int], distributions: Mapping[str, BaseDistribution], say: Say
) -> list[str]:
    if store.exists() and (there := store.studies()):
        filled = [(f"{i:016x}", n) for i, n in enumerate(sizes)]
        if [(row.fingerprint, row.spec.get("trials")) for row in there] != filled:
            raise SpecError(
                f"--storage: {store.url_shown} holds studies that this command did not write, or wrote with another "
                "--trials. It adds trials to what it times: name an empty database, or the same --trials"
            )
        say(f"{store.url_shown} is filled already")
        return [row.name for row in there]
    ledgers: dict[str, Ledger] = {}

    def written(name: str, made: list[Made]) -> None:
        if name not in ledgers:
            say(f"writing {name}")
            ledgers[name] = _ledger(store, name)
        add_history(ledgers[name], made, distributions)

    names = fill(store.url, sizes, 0, lambda random: _drawn(random, distributions), OUTCOMES, written)
    for ledger in ledgers.values():
        ledger.close()
    return names


def _ledger(store: Store, name: str) -> Ledger:
    return Ledger(store.url, store.url_shown, name, "tpe", 0, workers=2)


def _drawn(random: np.random.Generator, distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, d in distributions.items():
        if isinstance(d, CategoricalDistribution):
            found[name] = d.choices[int(random.integers(len(d.choices)))]
        elif isinstance(d, IntDistribution):
            found[name] = int(random.integers(d.low, d.high + 1))
        else:
            assert isinstance(d, FloatDistribution)
            found[name] = float(random.uniform(d.low, d.high))
    return found


def _worker(store: Store, name: str, size: int, repeats: int, space: Space) -> list[Step]:
    """Time what a worker does for a trial, as `search._loop` does it; the point itself is drawn uniformly."""
    worker, random = worker_name(), np.random.default_rng(1)
    ledger = _ledger(store, name)
    distributions = space.distributions
    opened, trials = _once("history read by a new worker", size, lambda: ledger.trials())
    read, (at, rows) = _once("trials read by a new worker", size, lambda: store.changed(name))
    policy = rows[-1].policy
    figures, costs = rows[0].numbers, rows[0].costs
    answers = {
        "id": [f"e{i}" for i in range(FINISHED)],
        "correct": [float(i % 3 > 0) for i in range(FINISHED)],
    }

    def uniform(trials: list[FrozenTrial], start: Any) -> FrozenTrial:
        params = _drawn(random, distributions)
        return create_trial(state=TrialState.RUNNING, params=params, distributions=dict(distributions))

    def ask(worker: str) -> Any:
        running = [t.number for t in ledger.running()]
        left = set(running) - store.held(name, running, worker) if running else set()
        assert left <= before
        trial = ledger.ask(distributions, 10 * size + 1000, choose=uniform)
        assert trial is not None
        trial_id = store.add_trial(name, trial.number, policy, params=trial.params)
        assert store.lease(trial_id, worker, LEASE_S)
        return trial, trial_id

    def tell(trial: Any, trial_id: int) -> None:
        nonlocal at
        store.finish_trial(trial_id, numbers=figures, costs=costs, outcomes={"search": answers}, seconds=1.0)
        ledger.tell(trial, (0.5, costs["tflops_exact"]), {"tflops_literature": -1.0})
        at, _ = store.changed(name, at)

    before = {t.number for t in ledger.running()}  # nobody works on
    others = [ask(f"{worker}:{i}") for i in range(TEAM - 1)]
    asked, told = [], []
    for _ in range(repeats):
        asked.append(_timed(lambda: ask(worker)))
        told.append(_timed(lambda: tell(*asked[-1].result)))
    for one in others:
        tell(*one)
    both = [_Time(a.wall + t.wall, a.cpu + t.cpu) for a, t in zip(asked, told, strict=True)]
    found = [
        opened,
        read,
        _step("ask, besides the sampler", size, asked),
        _step("tell", size, told),
        _step("ask and tell, besides the sampler", size, both, BARS.get(size)),
    ]
    trials = ledger.trials()
    chooser = Chooser("default", space, 0)
    _timed(lambda: chooser(trials))  # reads the history, once a worker
    times = [_timed(lambda: chooser(trials)) for _ in range(repeats)]
    found.append(_step("proposal of the default strategy", size, times, SAMPLER_BAR.get(size)))
    _timed(lambda: ledger._draw(trials, distributions, {}))
    times = [_timed(lambda: ledger._draw(trials, distributions, {})) for _ in range(repeats)]
    found.append(_step("proposal of tpe beside another worker", size, times))
    ledger.close()
    return found


def _readers(store: Store, name: str, size: int, repeats: int) -> list[Step]:
    """Time what the command line, the dashboard and the service read."""
    reader, fronts = Reader(store.url), Fronts(store)
    one = store.trials(name, numbers=[0])[0]

    def changed() -> None:
        store.add_numbers(one.id, one.numbers)
        fronts.view(name)

    found = [
        _once("front, as the command line reads it", size, lambda: FrontView.read(store, name, None, None))[0]
    ]
    found.append(_once("front over HTTP, first time", size, lambda: fronts.view(name))[0])
    limits = iter(np.linspace(300.0, 900.0, repeats).tolist())
    calls: dict[str, Callable[[], Any]] = {
        "front over HTTP, again": lambda: fronts.view(name),
        "front over HTTP, another limit": lambda: fronts.view(name, next(limits)),
        "front over HTTP, a trial has changed": changed,
        "dashboard: what has changed, all studies": reader.versions,
        "dashboard: a trial's answers": lambda: reader.outcomes(one.id, "search"),
        "dashboard: who works on what": reader.work,
        "studies with their counts": store.studies,
        "jobs with their counts": lambda: statuses(store, 100),
    }
    found += [_step(what, size, [_timed(call) for _ in range(repeats)]) for what, call in calls.items()]
    found.append(_once("dashboard: list of all studies", size, reader.glances)[0])
    reader.close()
    return found


class _Time:
    """Seconds of wall clock and processor that a call took, and what it returned."""

    def __init__(self, wall: float, cpu: float, result: Any = None) -> None:
        self.wall, self.cpu, self.result = wall, cpu, result


def _timed(call: Callable[[], Any]) -> _Time:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return _Time(time.perf_counter() - wall, time.process_time() - cpu, result)


def _once(what: str, size: int, call: Callable[[], Any]) -> tuple[Step, Any]:
    taken = _timed(call)
    return _step(what, size, [taken]), taken.result


def _step(what: str, size: int, times: list[_Time], bar: float | None = None) -> Step:
    wall = [t.wall for t in times]
    return {
        "step": what,
        "trials": size,
        "p50_s": float(np.median(wall)),
        "p99_s": float(np.quantile(wall, 0.99)),
        "cpu_s": float(np.median([t.cpu for t in times])),
        "n": len(times),
        "bar_s": bar,
    }
