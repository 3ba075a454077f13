"""A whole search with objectives of its own: what it tells samplers, when it stops trials, and its front."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from autotc.device.gauge import Gauged
from autotc.errors import SpecError
from autotc.metrics import METRICS, parse_objectives
from autotc.pareto import non_dominated
from autotc.policy import Number, Policy
from autotc.search.result import Result
from autotc.search.study import Study, open_ledger
from autotc.store import Store
from autotc.tables.fronts import FrontView
from tests.fakes import FakeEvaluator
from tests.search.test_study import SETTING, SPEC, go, nothing, using

KV = ("quality", "tflops_exact", "kv_gib")
NEXT = ("quality", "next_question", "tflops_exact")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/autotc.db")


def check_front(result: Result, names: tuple[str, ...]) -> None:
    aims = parse_objectives(names)
    points = np.array([m.point(aims, result.split) for m in result.front])
    assert len(points) and non_dominated(points, [m.maximise for m in aims]).all()


@pytest.mark.parametrize("strategy", ["default", "plain", "nsga2"])
def test_three_objectives_are_searched_stored_and_shown(store: Store, strategy: str) -> None:
    result = go(store, objectives=KV, strategy=strategy)
    assert (result.state, result.trials) == ("finished", 14)
    check_front(result, KV)
    ledger = open_ledger(store, result.study, SPEC.model_copy(update={"objectives": KV}))
    told = {t.number: t.values for t in ledger.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))}
    directions = [d.name.lower() for d in ledger.study.directions]
    ledger.close()
    assert directions == ["maximize", "minimize", "minimize"]
    for row in store.trials(result.study, role="trial"):
        assert told[row.number or 0][1:] == [row.costs["tflops_exact"], row.costs["kv_bytes"] / 2**30]
    view = FrontView.read(store, result.study, None, None)
    assert [m.trial for m in view.front] == [m.trial for m in result.front]
    assert [m.name for m in view.more] == ["kv_gib"]
    # presets and the baselines have the same figures
    assert all(m.point(parse_objectives(KV), "search") for m in result.references)


def test_a_study_goes_on_with_its_objectives_and_refuses_others(store: Store) -> None:
    first = go(store, objectives=KV, study="s", trials=4)
    again = go(store, objectives=KV, study="s", trials=6)
    assert (first.ran, again.ran) == (4, 2)
    with pytest.raises(SpecError, match=r"objectives was \['quality', 'tflops_exact', 'kv_gib'\], now \[\]"):
        go(store, using(FakeEvaluator()), study="s", trials=6)


def test_trials_are_stopped_early_where_quality_is_all_that_is_measured(store: Store, tmp_path: Path) -> None:
    asked = {"examples": 512, "trials": 24, "sampler": "random"}
    for objectives, stops in ((KV, True), (NEXT, False)):
        other = Store(f"sqlite:///{tmp_path}/{len(objectives)}{stops}.db")
        result = go(other, objectives=objectives, **asked)
        rows = other.trials(result.study, role="trial")
        stopped = [r for r in rows if (r.reason or "").startswith("stopped after")]
        assert bool(stopped) == stops
        check_front(result, objectives)
        for row in stopped:  # by one that costs no more in any way
            number = int((row.reason or "").rsplit(" ", 1)[1])
            rival = next(r for r in rows if r.number == number)
            costs = [m for m in parse_objectives(objectives) if m.on_cost]
            assert all(m.of(rival.costs) <= m.of(row.costs) for m in costs)


def test_claims_are_against_what_costs_no_less_in_any_objective(store: Store) -> None:
    result = go(store, objectives=KV)
    rows = {r.number: r for r in store.trials(result.study, role="trial")}
    rivals = {r.label: r for r in store.trials(result.study, role="reference")}
    assert result.claims
    for claim in result.claims:
        mine, theirs = rows[claim.trial].costs, rivals[claim.rival].costs
        for name in ("tflops_exact", "kv_gib"):
            assert METRICS[name].of(mine) <= METRICS[name].of(theirs) * (1 + 1e-9)


@pytest.mark.parametrize("strategy", ["evolution", "vtw"])
def test_a_published_search_knows_only_quality_at_a_cost(store: Store, strategy: str) -> None:
    spec = SPEC.model_copy(update={"objectives": KV, "strategy": strategy, "reducers": None})
    with pytest.raises(SpecError, match=f"--objective: --strategy {strategy} searches quality at a cost"):
        Study(spec, store, replace(SETTING, evaluator=nothing))
    assert store.studies() == []


def test_references_are_measured_as_trials_are_where_latency_is_an_objective(store: Store) -> None:
    def gauge(policy: Policy) -> Gauged:
        latency = 10.0 + 5 * len(policy.stages)
        number = Number(name="latency_ms", value=latency, unit="ms", kind="measured", on="fake GPU", n=3)
        return Gauged({"latency_ms": latency}, (number,))

    names = ("quality", "latency_ms")
    result = go(store, replace(SETTING, gauge=gauge), objectives=names, measure=True, trials=6)
    for m in (*result.front, *result.references):
        found = m.number("latency_ms")
        assert found is not None and (found.kind, found.on) == ("measured", "fake GPU")
        assert found.value == 10.0 + 5 * len(m.policy.stages)
        assert [n.name for n in m.numbers].count("latency_ms") == 1
    check_front(result, names)


def test_an_objective_that_the_data_does_not_give_is_refused_before_any_trial(store: Store) -> None:
    class OneGroup(FakeEvaluator):
        def evaluate(self, policy, split, n, *, start=0):  # type: ignore[no-untyped-def]
            found = super().evaluate(policy, split, n, start=start)
            found.group[:] = "all"
            return found

    with pytest.raises(SpecError, match="--objective: worst_group cannot be measured on this data"):
        go(store, using(OneGroup()), objectives=("worst_group", "kv_gib"), study="s")
    assert store.trials("s", role="trial") == []
