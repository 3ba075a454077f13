"""A whole search on the fake evaluator: what it finds, what it stores, and how it survives."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from autotc.cost import estimate
from autotc.errors import DataError, SpecError, StoreError
from autotc.pareto import non_dominated
from autotc.policy import Policy
from autotc.search import _loop
from autotc.search._ledger import Ledger
from autotc.search._session import Progress
from autotc.search.result import Result
from autotc.search.setting import Setting
from autotc.search.spec import SearchSpec
from autotc.search.study import Study, open_ledger
from autotc.store import Store, TrialRow
from autotc.workload import PROFILES
from tests.fakes import FULL, PROXY, FakeEvaluator, accept, fake_evaluator, slow_evaluator
from tests.search.points import REDUCERS, point

VQA = PROFILES["vqa"]

SPEC = SearchSpec(
    model="qwen2.5-vl",
    max_tflops=800,
    trials=14,
    examples=128,
    selection_examples=32,
    heldout_examples=48,
    reducers=REDUCERS,
)
SETTING = Setting(FULL, PROXY, "fake", VQA, fake_evaluator, check=accept)


def using(evaluator: FakeEvaluator) -> Setting:
    return replace(SETTING, evaluator=lambda workers: evaluator)


def nothing(workers: int) -> FakeEvaluator:
    raise AssertionError("nothing may be run")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/autotc.db")


def go(store: Store, setting: Setting = SETTING, lease_s: float = 20.0, **changes: Any) -> Result:
    return Study(SPEC.model_copy(update=changes), store, setting, lease_s=lease_s).run()


def trials(store: Store, result: Result) -> list[TrialRow]:
    return store.trials(result.study, role="trial")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Result, list[Progress], FakeEvaluator]:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('whole')}/autotc.db")
    seen: list[Progress] = []
    evaluator = FakeEvaluator()
    result = Study(SPEC, store, using(evaluator), seen.append).run()
    return store, result, seen, evaluator


Whole = tuple[Store, Result, list[Progress], FakeEvaluator]


def test_a_study_ends_with_a_front_that_is_one(whole: Whole) -> None:
    store, result, _, _ = whole
    assert (result.state, result.trials, result.total, result.ran) == ("finished", 14, 14, 14)
    assert result.front and result.split == "selection"
    figures = [(m.decisive("quality", "selection").value, m.value("tflops_exact")) for m in result.front]
    points = np.array(figures)
    assert non_dominated(points, maximise=(True, False)).all()
    assert (np.diff(points[:, 1]) > 0).all()
    for m in result.front:
        assert not m.reference
        assert m.value("tflops_literature") <= 800
        assert m.policy.model.decoder_layers == FULL.decoder.layers
        assert m.value("tflops_exact") == estimate(m.policy, FULL, VQA).tflops_exact
        for split, n in (("search", 128), ("selection", 32), ("held-out", 48)):
            number = m.number("quality", split)
            assert number is not None and (number.n, number.kind, number.on) == (n, "measured", "fake")
            assert number.stderr is not None and number.stderr > 0
    # the same front as a reader of the database computes, and as was published
    published = store.fronts(result.study)
    assert len(published) == 1
    rows = {r.id: r for r in store.trials(result.study)}
    assert [rows[m.trial_id].number for m in published[0].members] == [m.trial for m in result.front]
    assert published[0].budget == {"max_tflops": 800.0, "flops_convention": "literature"}


def test_no_trial_costs_more_than_the_limit(whole: Whole) -> None:
    store, result, _, _ = whole
    rows = trials(store, result)
    assert [r.number for r in rows] == list(range(14))
    assert all(r.costs["tflops_literature"] <= 800 for r in rows)
    assert all(r.params and r.finished is not None for r in rows)
    assert all(len(r.trace) == len(r.policy.stages) for r in rows)


def test_references_are_there_once_and_outside_the_front(whole: Whole) -> None:
    _, result, _, _ = whole
    labels = [m.label for m in result.references]
    assert labels[:3] == ["uncompressed", "random", "downsample"] and len(set(labels)) == len(labels)
    assert {"divprune", "fastv"} <= set(labels)
    for m in result.references:
        assert m.reference
        assert {n.split for n in m.numbers if n.name == "quality"} >= {"search", "selection"}
    final = [m.label for m in result.references if m.number("quality", "held-out")]
    assert final[:3] == labels[:3] and len(final) == 4  # and one preset: the best on selection
    assert result.references[0].policy.stages == ()


def test_a_preset_that_a_trial_has_tried_is_a_candidate_too(store: Store) -> None:
    """It has been measured as a reference: the front must not lie below a policy that a trial has found."""
    evaluator = FakeEvaluator()
    result = go(store, using(evaluator), trials=24)
    rows = store.trials(result.study)
    measured = {r.policy.id: r for r in rows if r.role == "reference" and r.number_of("quality", "selection")}
    found = [r for r in rows if r.role == "trial" and r.policy.id in measured]
    assert found
    for row in found:
        if row.number_of("quality", "selection") is None:  # only the first of equal trials
            assert any(r.policy.id == row.policy.id and (r.number or 0) < (row.number or 0) for r in found)
        else:
            assert row.number_of("quality", "selection") == measured[row.policy.id].number_of(
                "quality", "selection"
            )
    calls = Counter(policy for policy, split, _, _ in evaluator.calls if split == "selection")
    assert set(calls.values()) == {1}
    best = max(
        (m for m in measured.values() if m.policy.id in {r.policy.id for r in found}),
        key=lambda r: r.number_of("quality", "selection").value,  # type: ignore[union-attr]
    )
    cost = best.costs["tflops_exact"]
    cheaper = [
        m.decisive("quality", "selection").value for m in result.front if m.value("tflops_exact") <= cost
    ]
    own = (
        next(m for m in result.references if m.policy.id == best.policy.id)
        .decisive("quality", "selection")
        .value
    )
    assert max(cheaper) >= own - 1e-12


def test_looks_at_other_splits_are_counted(whole: Whole) -> None:
    store, result, _, evaluator = whole
    assert result.looks == 1
    assert [look.split for look in store.looks(result.study)] == ["selection", "held-out"]
    # held-out is measured once a policy, and only for the front and the references
    counted = Counter(policy for policy, split, _, _ in evaluator.calls if split == "held-out")
    assert set(counted.values()) == {1}
    measured = [m for m in result.references if m.number("quality", "held-out")]
    assert len(counted) == len({m.policy.id for m in (*result.front, *measured)})


def test_progress_says_how_far_it_is(whole: Whole) -> None:
    _, _, seen, _ = whole
    phases = [p.phase for p in seen]
    assert [k for k, _ in itertools.groupby(phases)] == ["references", "trials", "selection", "held-out"]
    steps = [p for p in seen if p.phase == "trials"]
    assert [p.done for p in steps] == list(range(1, 15))
    assert steps[-1].total == 14 and steps[-1].front >= 1
    best = [p.best_quality for p in steps if p.best_quality is not None]
    assert best == sorted(best)
    assert all(p.left_s is not None and p.left_s >= 0 for p in steps)


def test_evaluations_race_and_share_their_increments(store: Store) -> None:
    evaluator = FakeEvaluator()
    result = go(store, using(evaluator), trials=24, sampler="random")
    assert {(n, start) for _, split, n, start in evaluator.calls if split == "search"} == {(64, 0), (64, 64)}
    stopped = [r for r in trials(store, result) if (r.reason or "").startswith("stopped after 64 of 128")]
    assert stopped
    for row in stopped:
        number = row.number_of("quality", "search")
        assert number is not None and number.n == 64
        assert row.number not in [m.trial for m in result.front]
        assert row.number_of("quality", "selection") is None


def test_claims_are_paired_at_no_more_exact_cost(whole: Whole) -> None:
    store, result, _, _ = whole
    assert {c.rival for c in result.claims} > {"random"}
    assert result.claims[0].why == "best preset on selection"
    rows = {r.number if r.role == "trial" else r.label: r for r in store.trials(result.study)}
    presets = [
        m
        for m in result.references
        if m.label not in ("uncompressed", "random", "downsample") and m.number("quality", "selection")
    ]
    assert (
        result.claims[0].rival == max(presets, key=lambda m: m.decisive("quality", "selection").value).label
    )
    for c in result.claims:
        assert c.cost <= c.rival_cost and c.n == 48 and c.looks == 1
        one = store.outcomes(rows[c.trial].id, "held-out")["correct"]
        other = store.outcomes(rows[c.rival].id, "held-out")["correct"]
        assert c.difference == pytest.approx((one - other).mean())
        if c.stderr:
            # intervals are wider than 1.96 standard errors: corrected for the number of claims
            assert c.low is not None and c.high is not None
            assert (c.high - c.low) / 2 > 2.2 * c.stderr
        assert c.rival in c.text and f"trial {c.trial}" in c.text


def test_the_result_is_json_and_the_profile_adds_up(whole: Whole) -> None:
    import json

    _, result, _, _ = whole
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["study"] == result.study
    assert result.profile.evaluator_s > 0
    parts = sum(result.profile.parts_s.values())
    assert 0 < parts <= result.profile.wall_s
    assert result.profile.outside == pytest.approx(1 - result.profile.evaluator_s / result.profile.wall_s)
    assert any("autotc export" in line for line in result.next)


def test_a_finished_study_is_answered_without_running_anything(whole: Whole) -> None:
    store, result, _, _ = whole
    again = go(store, replace(SETTING, evaluator=nothing))
    assert again.state == "finished" and again.ran == 0 and again.looks == 1
    assert [m.trial for m in again.front] == [m.trial for m in result.front]
    assert again.claims == result.claims
    assert "--trials 28" in again.next[0]


def test_another_limit_is_answered_from_stored_trials(whole: Whole) -> None:
    store, result, _, _ = whole
    smaller = go(store, replace(SETTING, evaluator=nothing), max_tflops=300.0)
    assert smaller.study == result.study and smaller.ran == 0
    assert all(m.value("tflops_literature") <= 300 for m in smaller.front)
    go(store, replace(SETTING, evaluator=nothing))


def test_another_limit_goes_on_with_more_trials(store: Store) -> None:
    """Presets that the first limit left as starting points lie outside of the second one's budgets."""
    go(store, trials=2)
    result = go(store, trials=5, max_tflops=250.0)
    assert result.state == "finished" and result.ran == 3
    assert all(r.costs["tflops_literature"] <= 250 for r in trials(store, result)[2:])
    back = go(store, trials=7)
    assert back.study == result.study and back.ran == 2


def test_another_fingerprint_under_the_same_name_is_refused(whole: Whole) -> None:
    store, result, _, _ = whole
    with pytest.raises(SpecError) as error:
        go(store, study=result.study, seed=7, sampler="random")
    text = str(error.value)
    assert text.startswith(f"--study: {result.study!r} in sqlite:///")
    assert "sampler was None, now 'random'" in text and "seed was 0, now 7" in text
    with pytest.raises(SpecError, match="the data was '', now 'new'"):
        go(store, replace(SETTING, data="new"), study=result.study)


def test_trials_of_another_space_are_not_taken_for_points_of_this_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version may have other parameters, under which the same values decode to other policies."""
    first = go(store, trials=6)
    monkeypatch.setattr("autotc.search.space.MAX_STAGES", 2)
    with pytest.raises(
        SpecError, match=rf"{first.study!r} .* has 6 trials of another version.*autotc front --study"
    ):
        go(store, trials=12)
    assert len(trials(store, first)) == 6


def test_more_trials_go_on_with_the_next_number(store: Store) -> None:
    first = go(store, trials=6)
    before = {r.number: r.policy.id for r in trials(store, first)}
    evaluator = FakeEvaluator()
    more = go(store, using(evaluator), trials=12)
    rows = trials(store, more)
    assert (more.study, more.trials, more.ran) == (first.study, 12, 6)
    assert [r.number for r in rows] == list(range(12))
    assert {r.number: r.policy.id for r in rows[:6]} == before
    # references are not run again
    labels = [m.policy.id for m in more.references]
    searched = [p for p, split, _, start in evaluator.calls if split == "search" and start == 0]
    assert not set(searched) & set(labels)
    assert [m.label for m in more.references] == [m.label for m in first.references]


def test_the_same_seed_gives_the_same_policies(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        store = Store(f"sqlite:///{tmp_path}/{name}.db")
        result = go(store, seed=seed, trials=22, strategy="plain", examples=16)
        found.append([r.policy.id for r in trials(store, result)])
    assert found[0] == found[1]
    assert len(set(found[0]) & set(found[2])) < 5


class Trouble:
    """Raises at the n-th evaluation on search of a policy that has not been evaluated before."""

    def __init__(self, error: Callable[[], BaseException], at: set[int]) -> None:
        self.error, self.at, self.seen = error, at, 0

    def __call__(self, policy: Policy | None, split: str) -> None:
        self.seen += 1
        if self.seen in self.at:
            raise self.error()


def test_ctrl_c_gives_the_front_so_far_and_the_same_command_goes_on(tmp_path: Path) -> None:
    straight = Store(f"sqlite:///{tmp_path}/straight.db")
    wanted = [r.policy.id for r in trials(straight, go(straight, strategy="plain"))]
    counting = FakeEvaluator()
    store = Store(f"sqlite:///{tmp_path}/interrupted.db")
    references = 15  # uncompressed, random, downsample and a dozen; without races each is one call
    trouble = Trouble(KeyboardInterrupt, {references + 5})
    result = go(store, using(FakeEvaluator(trouble=trouble)), strategy="plain")
    assert result.state == "interrupted" and 0 < result.trials < 14
    assert result.front and result.split == "search"
    assert result.next[0] == f"go on: the same command ({result.trials} of 14 trials are stored)"
    study = store.study(result.study)
    assert study is not None and study.state == "interrupted"
    assert len(store.trials(result.study, role="trial", state="running")) == 1
    again = go(store, using(counting), strategy="plain")
    assert again.state == "finished" and again.trials == 14
    rows = trials(store, again)
    assert [r.number for r in rows] == list(range(14))
    assert [r.policy.id for r in rows] == wanted


@pytest.mark.parametrize("error", [MemoryError("12 GiB"), RuntimeError("CUDA out of memory")])
def test_a_trial_that_fails_is_told_and_the_search_goes_on(store: Store, error: Exception) -> None:
    trouble = Trouble(lambda: error, {20, 21})
    result = go(store, using(FakeEvaluator(trouble=trouble)), strategy="plain")
    failed = store.trials(result.study, role="trial", state="failed")
    assert result.state == "finished" and len(failed) == 2
    assert failed[0].reason == f"{type(error).__name__}: {error}"
    assert failed[0].violations["failed"] == 1.0
    assert failed[0].numbers == [] and "tflops_exact" in failed[0].costs
    ledger = open_ledger(store, result.study, SPEC)
    told = ledger.study.get_trials()[failed[0].number or 0]
    assert told.state.name == "COMPLETE" and told.constraints["failed"] == 1.0 and told.values[0] == 0.0
    ledger.close()


def test_an_evaluator_that_always_fails_ends_the_search(store: Store) -> None:
    trouble = Trouble(lambda: RuntimeError("broken"), set(range(20, 1000)))
    with pytest.raises(RuntimeError, match="broken"):
        go(store, using(FakeEvaluator(trouble=trouble)), strategy="plain")


def test_small_data_are_used_whole(store: Store) -> None:
    evaluator = FakeEvaluator(size=64)
    setting = replace(using(evaluator), sizes={"search": 64, "selection": 20, "held-out": 24})
    result = go(store, setting, trials=4)
    assert {(n, start) for _, split, n, start in evaluator.calls if split == "search"} == {(64, 0)}
    assert {n for _, split, n, _ in evaluator.calls if split == "held-out"} == {24}
    assert result.front and all(m.number("quality", "search").n == 64 for m in result.front)  # type: ignore[union-attr]


def test_wrong_data_ends_the_search_at_once(store: Store) -> None:
    trouble = Trouble(lambda: DataError("my.jsonl:3: image cannot be read"), {20})
    with pytest.raises(DataError, match=r"my\.jsonl:3"):
        go(store, using(FakeEvaluator(trouble=trouble)), strategy="plain")


def test_a_model_that_does_not_run_at_all_is_an_error(store: Store) -> None:
    with pytest.raises(MemoryError):
        go(store, using(FakeEvaluator(trouble=Trouble(MemoryError, {1}))))


def test_over_the_memory_limit_is_recorded_and_not_run(store: Store) -> None:
    counting = FakeEvaluator()
    space, rng = Study(SPEC, store, SETTING).space, random.Random(0)
    limit = median(estimate(space.decode(point(space, rng)).policy, FULL, VQA).memory_gib for _ in range(15))
    result = go(store, using(counting), max_memory_gib=limit, strategy="plain")
    rows = trials(store, result)
    over = [r for r in rows if r.costs["memory_gib"] > limit]
    assert 0 < len(over) < len(rows)
    ran = {policy for policy, _, _, _ in counting.calls}
    for row in over:
        assert row.state == "infeasible" and row.numbers == []
        assert row.violations["memory_gib"] == pytest.approx(row.costs["memory_gib"] - limit)
        assert row.reason == f"over the limit: memory_gib {row.costs['memory_gib']:.4g}"
        assert row.policy.for_model(PROXY).id not in ran
    assert all(m.value("memory_gib") <= limit for m in result.front)
    ledger = open_ledger(store, result.study, SPEC)
    told = {t.number: t for t in ledger.study.get_trials()}
    assert all(told[r.number].state.name == "COMPLETE" for r in over if r.number is not None)
    assert all(told[r.number].constraints["memory_gib"] > 0 for r in over if r.number is not None)
    ledger.close()


def test_a_policy_that_was_run_before_is_answered_from_the_store(store: Store) -> None:
    evaluator = FakeEvaluator()
    result = go(store, using(evaluator), reducers=("downsample",), max_tflops=90.0, trials=20)
    rows = trials(store, result)
    twins = [r for r in rows if (r.reason or "").endswith("answered from the store")]
    assert twins
    first: dict[str, TrialRow] = {}
    for row in [*store.trials(result.study, role="reference"), *rows]:
        there = first.setdefault(row.policy.id, row)
        if row in twins:
            assert row.number_of("quality", "search") == there.number_of("quality", "search")
            assert len(store.outcomes(row.id, "search")["id"]) == 128
    counted = Counter(p for p, split, _, start in evaluator.calls if split == "search" and start == 0)
    assert set(counted.values()) == {1}
    ids = [m.policy.id for m in result.front]
    assert len(set(ids)) == len(ids)


def test_presets_the_search_starts_from_are_not_run_twice(whole: Whole) -> None:
    store, result, _, evaluator = whole
    first = trials(store, result)[0]
    assert first.policy.id in {m.policy.id for m in result.references}
    assert first.reason is not None and first.reason.endswith("answered from the store")
    counted = Counter(p for p, split, _, start in evaluator.calls if split == "search" and start == 0)
    assert counted[first.policy.for_model(PROXY).id] == 1


def test_a_full_disk_stops_the_search_and_leaves_what_was_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Store.finish_trial

    def full(self: Store, *args: Any, **kwargs: Any) -> bool:
        if len(self.trials("s", role="trial")) > 4:
            raise StoreError("the disk is full")
        return finish(self, *args, **kwargs)

    monkeypatch.setattr(Store, "finish_trial", full)
    with pytest.raises(StoreError, match="the disk is full"):
        go(store, study="s", lease_s=0.5)
    monkeypatch.undo()
    assert len(store.trials("s", role="trial", state="complete")) == 4
    result = go(store, study="s", lease_s=0.5)
    assert result.state == "finished" and result.trials == 14


def test_the_timeout_leaves_time_for_the_front(store: Store) -> None:
    evaluator = FakeEvaluator(delay_s=0.02)
    begin = time.monotonic()
    result = go(store, using(evaluator), timeout=6.0, trials=5000)
    taken = time.monotonic() - begin
    assert result.state == "stopped" and 0 < result.trials < 5000
    assert result.front and all(m.number("quality", "held-out") for m in result.front)
    assert taken < 60
    study = store.study(result.study)
    assert study is not None and study.state == "stopped"


def test_a_trial_whose_worker_is_gone_is_taken_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    go(store, trials=2, study="s")
    ledger = open_ledger(store, "s", SPEC)
    space = Study(SPEC, store, SETTING).space
    # one worker died after storing its policy, another before
    leased = ledger.ask(space.distributions, 9)
    assert leased is not None
    policy = space.decode(leased.params).policy
    trial_id = store.add_trial("s", leased.number, policy, params=leased.params)
    assert store.lease(trial_id, "dead", 0.2)
    orphan = ledger.ask(space.distributions, 9)
    assert orphan is not None
    ledger.close()
    monkeypatch.setattr(_loop, "ORPHAN_S", 0.1)
    result = go(store, study="s", trials=6)
    rows = trials(store, result)
    assert [r.number for r in rows] == list(range(6)) and {r.state for r in rows} == {"complete"}
    assert rows[leased.number].policy.id == policy.id
    assert rows[orphan.number].policy.id == space.decode(orphan.params).policy.id


def test_killed_between_store_and_tell(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = Ledger.tell

    def killed(self: Ledger, trial: Any, *args: Any) -> None:
        if trial.number == 3:
            raise SystemExit(9)
        tell(self, trial, *args)

    monkeypatch.setattr(Ledger, "tell", killed)
    with pytest.raises(SystemExit):
        go(store, study="s")
    monkeypatch.undo()
    row = store.trials("s", role="trial")[3]
    assert row.state == "complete"
    result = go(store, study="s")
    assert result.trials == 14 and searched(trials(store, result)[3]) == row
    ledger = open_ledger(store, "s", SPEC)
    quality = row.number_of("quality", "search")
    assert quality is not None
    assert ledger.study.get_trials()[3].values == [quality.value, row.costs["tflops_exact"]]
    ledger.close()


def searched(row: TrialRow) -> TrialRow:
    """A trial as it was before its candidates were measured on other splits."""
    return replace(row, numbers=[n for n in row.numbers if n.split == "search"])


def _search(url: str, workers: int) -> None:
    Study(
        SPEC.model_copy(update={"study": "s"}), Store(url), replace(SETTING, evaluator=slow_evaluator)
    ).run()


def test_kill_9_loses_no_finished_trial(store: Store) -> None:
    store.upgrade()
    process = multiprocessing.get_context("spawn").Process(target=_search, args=(store.url, 1))
    process.start()
    end = time.monotonic() + 300
    while time.monotonic() < end and process.is_alive():
        if store.study("s") and len(store.trials("s", role="trial", state="complete")) >= 4:
            break
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = {r.number: r for r in store.trials("s", role="trial") if r.state == "complete"}
    assert 4 <= len(before) < 14
    result = go(store, study="s", lease_s=1.0)
    after = {r.number: r for r in trials(store, result)}
    assert result.state == "finished" and sorted(k for k in after if k is not None) == list(range(14))
    assert {k: searched(after[k]) for k in before} == {k: searched(r) for k, r in before.items()}
    assert result.front


def test_workers_share_a_study(store: Store) -> None:
    setting = replace(SETTING, evaluator=slow_evaluator)
    result = Study(SPEC.model_copy(update={"workers": 2, "trials": 30}), store, setting).run()
    rows = trials(store, result)
    assert result.state == "finished" and result.trials == 30
    assert sorted(r.number or 0 for r in rows) == list(range(30))
    assert {r.state for r in rows} == {"complete"}
