"""What is written comes back, once, whole, and stays."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from autotc import _outcomes
from autotc.errors import SpecError, StoreAway, StoreError
from autotc.policy import ModelRef, Policy
from autotc.store import Store, columns
from tests.store.builders import MODEL, finish, number, outcomes, policy, start


def test_a_study_is_created_once_and_taken_up_again(store: Store) -> None:
    made = store.create_study("s", "f1", {"seed": 0, "trials": 60}, {"id": "m"}, "proxy:tiny")
    assert made.state == "running" and made.counts == {}
    assert abs((datetime.now(UTC) - made.created).total_seconds()) < 60
    store.set_study_state("s", "finished")
    again = store.create_study("s", "f1", {"seed": 0, "trials": 90}, {"id": "m"}, "proxy:tiny")
    assert (again.id, again.state, again.spec["trials"]) == (made.id, "finished", 90)
    assert [s.name for s in store.studies()] == ["s"]
    assert store.study("s") == again and store.study("t") is None


def test_another_fingerprint_is_refused_with_the_difference(store: Store) -> None:
    store.create_study("s", "f1", {"seed": 0, "data": "a.jsonl"}, {}, "proxy:tiny")
    with pytest.raises(SpecError, match=r"data was 'a.jsonl', now 'b.jsonl'.*another --study"):
        store.create_study("s", "f2", {"seed": 0, "data": "b.jsonl"}, {}, "proxy:tiny")
    assert store.studies()[0].spec["data"] == "a.jsonl"


def test_a_trial_comes_back_as_it_was(store: Store) -> None:
    start(store)
    asked = policy(0.41, provenance={"note": "grün", "nothing": None}, expected=(number(),))
    trial_id = store.add_trial(
        "s", 3, asked, params={"keep": np.float32(0.5), "n": np.int64(3)}, label="enqueued"
    )
    assert store.trial(trial_id).state == "running" and store.trial(trial_id).finished is None
    figures = [number(0.25, "agreement"), number(7.0, "latency_ms", split=None), number(0.5)]
    costs = {"tflops_exact": 1.25, "parts": {"tower": np.float64(0.5)}}
    violations = {"memory_gib": 2.5}
    stages = [{"stage": 1, "asked": 144, "kept": 140.5}, {"stage": 0, "asked": 288, "kept": 288}]
    assert store.finish_trial(
        trial_id, "infeasible", figures, costs, violations, "too big", None, stages, 2.5
    )
    (row,) = store.trials("s")
    assert row == store.trial(trial_id)
    assert (row.study, row.number, row.role, row.label) == ("s", 3, "trial", "enqueued")
    assert (row.state, row.reason, row.seconds) == ("infeasible", "too big", 2.5)
    assert row.policy == asked and row.policy.id == asked.id
    assert row.numbers == figures  # by name
    assert row.costs == costs and row.violations == violations
    assert row.params == {"keep": 0.5, "n": 3}
    assert row.trace == [stages[1], stages[0]]
    assert row.finished is not None and row.finished >= row.created
    assert row.number_of("quality", "search") == figures[2] and row.number_of("quality", "held-out") is None
    dumped = json.loads(json.dumps(row.as_dict()))
    assert Policy.model_validate(dumped["policy"]) == asked
    assert dumped["numbers"][2]["value"] == 0.5 and dumped["created"].endswith("+00:00")


def test_policies_of_one_id_keep_their_own_checkpoint(store: Store) -> None:
    start(store)
    tuned = ModelRef(**{**MODEL.model_dump(), "id": "someone/tuned"})
    first, second = policy(), policy(model=tuned)
    assert first.id == second.id
    store.add_trial("s", 0, first)
    store.add_trial("s", 1, second)
    assert [t.policy for t in store.trials("s")] == [first, second]


def test_entering_a_trial_twice_gives_the_same_trial(store: Store) -> None:
    start(store)
    first = store.add_trial("s", 0, policy())
    assert store.add_trial("s", 0, policy()) == first
    with pytest.raises(StoreError, match="trial 0 is already stored with another policy"):
        store.add_trial("s", 0, policy(0.3))
    preset = store.add_trial("s", None, policy(), "reference", "fastv")
    assert store.add_trial("s", None, policy(), "reference", "fastv") == preset != first
    # the preset of another budget is another reference
    other = store.add_trial("s", None, policy(0.3), "reference", "fastv")
    assert [t.id for t in store.trials("s", role="reference")] == [preset, other]
    assert [t.id for t in store.trials("s", role="trial")] == [first]
    start(store, "t")
    assert store.add_trial("t", 0, policy()) != first


@pytest.mark.parametrize("arguments", [(None, "trial", None), (None, "reference", None), (1, "rival", None)])
def test_a_trial_needs_a_number_or_a_label(
    store: Store, arguments: tuple[int | None, str, str | None]
) -> None:
    start(store)
    number_, role, label = arguments
    with pytest.raises(StoreError, match="needs a number"):
        store.add_trial("s", number_, policy(), role, label)
    assert store.trials("s") == []


def test_a_second_finish_changes_nothing(store: Store) -> None:
    start(store)
    trial_id = finish(store, "s", 0)
    before, seen = store.trial(trial_id), store.outcomes(trial_id, "search")
    late = {"search": outcomes(4, start=100)}
    assert not store.finish_trial(trial_id, "failed", [number(0.0)], {"x": 1.0}, reason="late", outcomes=late)
    assert store.trial(trial_id) == before
    assert store.outcomes(trial_id, "search")["answer"].tolist() == seen["answer"].tolist()
    assert store.studies()[0].counts == {"complete": 1}


def test_a_finish_that_fails_midway_leaves_the_trial_running(store: Store) -> None:
    start(store)
    trial_id = store.add_trial("s", 0, policy())
    with pytest.raises(KeyError, match="kept"):
        store.finish_trial(trial_id, "complete", [number()], {"x": 1.0}, trace=[{"stage": 0, "asked": 1.0}])
    row = store.trial(trial_id)
    assert (row.state, row.numbers, row.costs, row.finished) == ("running", [], {}, None)


def test_outcomes_come_back_in_the_order_of_the_examples(store: Store) -> None:
    start(store)
    a, b = (store.add_trial("s", i, policy(0.5 - i / 10)) for i in range(2))
    given = outcomes(6)
    store.add_outcomes(a, "search", given)
    shuffled = {name: [values[i] for i in (5, 3, 4, 0, 2, 1)] for name, values in given.items()}
    store.add_outcomes(b, "search", shuffled)
    for trial_id in (a, b):
        back = store.outcomes(trial_id, "search")
        for name, values in given.items():
            assert back[name].tolist() == list(values), name
        assert np.isnan(back["next_correct"]).all() and back["correct"].dtype == np.float64
    assert store.outcomes(a, "held-out")["id"].tolist() == []


def test_later_passes_are_idempotent_and_fill_in(store: Store) -> None:
    start(store)
    trial_id = finish(store, "s", 0, n=4)
    for _ in range(2):
        store.add_numbers(trial_id, [number(0.7, split="selection"), number(0.75, n=128)])
        store.add_outcomes(trial_id, "selection", outcomes(4))
        store.add_outcomes(trial_id, "search", outcomes(4, start=4))
    found = [(n.name, n.split, n.value, n.n) for n in store.trial(trial_id).numbers]
    expected = [
        ("quality", "search", 0.75, 128),
        ("quality", "selection", 0.7, 64),
        ("worst_group", "search", 0.4, 64),
    ]
    assert found == expected
    assert len(store.outcomes(trial_id, "search")["id"]) == 8
    # a pass that only measures the next question leaves the rest as it was
    before = store.outcomes(trial_id, "search")
    ids = before["id"].tolist()
    store.add_outcomes(trial_id, "search", {"id": ids[::2], "next_correct": [1.0, math.nan, None, 0.0]})
    after = store.outcomes(trial_id, "search")
    assert after["correct"].tolist() == before["correct"].tolist()
    assert np.nan_to_num(after["next_correct"][::2], nan=-1).tolist() == [1.0, -1.0, -1.0, 0.0]


def test_outcomes_may_be_an_object_and_answers_any_text(store: Store) -> None:
    class Columns:
        id = ("a", "b")
        correct = np.array([True, False])
        answer = ("nul\0 half \ud800", None)

    start(store)
    trial_id = store.add_trial("s", 0, policy())
    store.add_outcomes(trial_id, "search", Columns())
    back = store.outcomes(trial_id, "search")
    assert back["answer"].tolist() == ["nul\ufffd half ?", None]
    assert back["image"].tolist() == [None, None] and back["correct"].tolist() == [1.0, 0.0]


def test_the_evaluators_outcomes_are_stored_whole() -> None:
    assert set(_outcomes.COLUMNS) == set(columns.COLUMNS)
    fields = {field.name for field in dataclasses.fields(_outcomes.Outcomes)}
    assert fields >= set(columns.COLUMNS)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"id": ["a"], "corect": [1.0]}, "unknown column 'corect'. Did you mean 'correct'"),
        ({"id": ["a", "b"], "kl": [1.0]}, "outcomes.kl: 1 values for 2 examples"),
        ({"id": ["a", "a"]}, "an example is there twice"),
        ({"kl": [1.0]}, "'id'"),
    ],
)
def test_malformed_outcomes_are_refused(store: Store, bad: dict[str, list[object]], message: str) -> None:
    start(store)
    trial_id = store.add_trial("s", 0, policy())
    with pytest.raises(StoreError, match=message):
        store.finish_trial(trial_id, outcomes={"search": bad})
    assert store.trial(trial_id).state == "running"


def test_missing_is_never_written_as_a_number(store: Store) -> None:
    start(store)
    trial_id = store.add_trial("s", 0, policy())
    with pytest.raises(StoreError, match=r"costs\.parts\.tower: nan is not a figure"):
        store.finish_trial(trial_id, costs={"parts": {"tower": math.nan}})
    with pytest.raises(StoreError, match=r"violations\.memory_gib: inf"):
        store.finish_trial(trial_id, violations={"memory_gib": math.inf})
    with pytest.raises(StoreError, match=r"params\.x\[1\]: object cannot be stored"):
        store.add_trial("s", 1, policy(), params={"x": [1, object()]})
    with pytest.raises(StoreError, match="ends complete, infeasible, failed"):
        store.finish_trial(trial_id, "running")


def test_unknown_names_and_ids_say_what_is_there(store: Store) -> None:
    with pytest.raises(SpecError, match="holds no study yet"):
        store.trials("typical")
    start(store, "typical")
    with pytest.raises(SpecError, match=r"unknown study 'typcal'.*Did you mean 'typical'"):
        store.add_trial("typcal", 0, policy())
    for call in (
        store.trial,
        store.finish_trial,
        lambda i: store.add_numbers(i, []),
        lambda i: store.lease(i, "w", 1),
    ):
        with pytest.raises(StoreError, match="no trial with id 7"):
            call(7)


def test_filters(store: Store) -> None:
    start(store)
    done, running = finish(store, "s", 0), store.add_trial("s", 1, policy(0.2))
    failed = store.add_trial("s", 2, policy(0.1))
    store.finish_trial(failed, "failed", reason="crashed")
    assert [t.id for t in store.trials("s", state="complete")] == [done]
    assert [t.id for t in store.trials("s", role="trial", state="running")] == [running]
    assert store.study("s").counts == {"complete": 1, "running": 1, "failed": 1}


def test_leases_are_exclusive_and_die(store: Store) -> None:
    start(store)
    a, b = (store.add_trial("s", i, policy(0.5 - i / 10)) for i in range(2))
    assert store.lease(a, "one", 60) and store.lease(b, "one", 60)
    assert not store.lease(a, "two", 60)
    assert store.lease(a, "one", 60) and store.renew(a, "one", 60) and not store.renew(a, "two", 60)
    assert store.reap() == []
    assert not store.release(a, "two") and store.release(a, "one") and store.lease(a, "two", -1)
    # a lease that ran out can be taken over, and then the former holder has lost it
    assert store.lease(a, "three", -1) and not store.renew(a, "two", 60)
    assert [(r.trial_id, r.study, r.number, r.worker) for r in store.reap()] == [(a, "s", 0, "three")]
    assert store.reap() == [] and store.lease(a, "four", 60)
    store.finish_trial(b)
    assert not store.renew(b, "one", 60)


def test_trials_know_what_they_were_run_with_and_alike_runs_share_it(store: Store) -> None:
    start(store)
    start(store, "t")
    here = {"autotc": "0.1.0", "torch": "2.13.0", "cpu": "EPYC", "cores": 2, "gpu": []}
    first = store.add_environment("s", here)
    assert store.add_environment("s", dict(here)) == first
    there = store.add_environment("s", {**here, "gpu": ["H200"]})
    assert len({first, there, store.add_environment("t", here)}) == 3
    ids = [store.add_trial("s", i, policy(0.5 - i / 10)) for i in range(3)]
    store.finish_trial(ids[0], environment=first)
    store.finish_trial(ids[1], "failed", reason="out of memory", environment=there)
    store.finish_trial(ids[2])
    assert [t.environment for t in store.trials("s")] == [here, {**here, "gpu": ["H200"]}, None]
    study = store.study("s")
    assert study is not None and study.environments == [here, {**here, "gpu": ["H200"]}]


def test_looks_are_counted_by_study_and_split(store: Store) -> None:
    start(store)
    start(store, "t")
    assert store.look("s", "held-out", "front") == 1
    assert store.look("t", "held-out", "front") == 1
    assert store.look("s", "selection", "rival") == 1
    assert store.look("s", "held-out", "front again") == 2
    assert [look.why for look in store.looks("s", "held-out")] == ["front", "front again"]
    assert len(store.looks("s")) == 3


def test_a_published_front_never_changes(store: Store) -> None:
    start(store)
    a, b, c = (finish(store, "s", i) for i in range(3))
    front = store.publish_front("s", 800, [c, a])
    before = store.fronts("s")
    assert [(m.rank, m.trial_id) for m in before[0].members] == [(0, c), (1, a)]
    assert before[0].budget == {"max_tflops": 800.0}
    assert before[0].members[0].numbers == store.trial(c).numbers
    assert before[0].members[0].costs == store.trial(c).costs
    # the same again is the same publication; new figures, another budget or other members are another one
    assert store.publish_front("s", 800, [c, a]) == front
    store.add_numbers(c, [number(0.1)])
    second = store.publish_front("s", 800, [c, a])
    third = store.publish_front("s", {"max_tflops": 400, "max_memory_gib": 24}, [b])
    assert [f.id for f in store.fronts("s")] == [front, second, third]
    assert store.fronts("s")[0] == before[0]
    assert store.publish_front("s", None, []) != third
    start(store, "t")
    with pytest.raises(StoreError, match="front members"):
        store.publish_front("t", 800, [a])
    with pytest.raises(StoreError, match="front members"):
        store.publish_front("s", 800, [a, a])
    assert store.fronts("t") == []


def test_sixty_trials_of_256_examples_take_well_under_a_second(store: Store) -> None:
    start(store)
    rows = [outcomes(256, seed=i) for i in range(60)]
    ids = [store.add_trial("s", i, policy(0.9 - i / 1000)) for i in range(60)]
    # processor time, because the machine may be busy with something else
    began = time.process_time()
    for trial_id, given in zip(ids, rows, strict=True):
        store.finish_trial(trial_id, "complete", [number()], outcomes={"search": given})
    assert time.process_time() - began < 1.0
    assert store.outcomes(ids[-1], "search")["kl"].tolist() == rows[-1]["kl"].tolist()


@pytest.mark.parametrize("left_s", [-1.0, -100.0])
def test_after_an_outage_of_any_length_leases_that_ran_out_get_their_time_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, left_s: float
) -> None:
    start(store)
    trial = store.add_trial("s", 0, policy())
    assert store.lease(trial, "busy", left_s)
    with pytest.raises(StoreAway), store._write():
        raise OperationalError("", {}, Exception("connection refused"))
    assert not store.lease(trial, "hasty", 20.0) and store.reap(20.0) == []
    assert store.renew(trial, "busy", left_s)  # its worker is there
    passed = time.monotonic() + 20.0
    monkeypatch.setattr("autotc.store.database.time.monotonic", lambda: passed)
    assert [lease.worker for lease in store.reap(20.0)] == ["busy"] and store.lease(trial, "next", 20.0)
