"""Fronts over HTTP while workers write: what is remembered is never what was."""

from __future__ import annotations

import gc
import json
import threading
from typing import Any

import numpy as np
import pytest

from autotc.pareto import non_dominated
from autotc.search._session import Progress
from autotc.search.study import Study
from autotc.service import fronts as module
from autotc.service.fronts import DOCUMENTS, LIMITS, Fronts
from autotc.store import Store
from autotc.tables.fronts import FrontView
from tests.fakes import FakeEvaluator
from tests.search.test_study import SETTING, using
from tests.service.conftest import SMALL, Clients


def fresh(store: Store, study: str, limit: float | None = None) -> list[dict[str, Any]]:
    view = FrontView.read(store, study, limit, None)
    return [view.as_dict(m) for m in (*view.front, *view.references)]


def test_after_every_step_of_a_search_the_answer_is_that_of_the_database(
    clients: Clients, store: Store
) -> None:
    answers: list[Any] = []

    def compare(step: Progress) -> None:
        for query in ({}, {"max_tflops": 400.0}):
            asked = clients.reads.get(
                "/v1/studies/live/front", params={**query, "with_references": True}
            ).json()
            assert asked == fresh(store, "live", query.get("max_tflops")), step
            answers.append(asked)

    spec = SMALL.model_copy(update={"study": "live", "trials": 8, "strategy": "plain"})
    Study(spec, store, SETTING, compare).run()
    assert len({str(a) for a in answers}) > 10  # it was another one again and again
    document = clients.reads.get("/v1/studies/live/policy").json()
    assert document["provenance"]["trial"] in [m["trial"] for m in answers[-2]]


def test_every_answer_is_whole_while_a_worker_writes(clients: Clients, store: Store) -> None:
    wrong: list[Any] = []
    asked = [0, 0]
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answer = clients.reads.get("/v1/studies/live/front")
            asked[answer.status_code == 200] += 1
            if answer.status_code not in (200, 404):  # 404 until the study is there
                wrong.append(answer.text)
                continue
            if answer.status_code == 200:
                points = [[value(m, "quality"), value(m, "tflops_exact")] for m in answer.json()]
                if not non_dominated(np.array(points).reshape(-1, 2), maximise=(True, False)).all():
                    wrong.append(points)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        spec = SMALL.model_copy(update={"study": "live", "trials": 12, "strategy": "plain"})
        Study(spec, store, using(FakeEvaluator(delay_s=0.01))).run()
    finally:
        over.set()
        asker.join()
    assert wrong == [] and asked[1] > 10
    assert clients.reads.get("/v1/studies/live/front").json() == fresh_front(store)


def value(member: dict[str, Any], name: str) -> float:
    """A figure as the front goes by it, over all examples of search and selection, or a cost."""
    found = [
        m for m in member["metrics"] if m["name"] == name and m["split"] in ("selection", "search", None)
    ]
    weights = [m["n"] or 1 for m in found]
    return sum(w * m["value"] for w, m in zip(weights, found, strict=True)) / sum(weights)


def fresh_front(store: Store) -> list[dict[str, Any]]:
    view = FrontView.read(store, "live", None, None)
    return [view.as_dict(m) for m in view.front]


def test_what_is_remembered_is_read_once_and_stays_small(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    changed = Store.changed

    def counted(self: Store, study: str, since: int = -1) -> Any:
        reads.append(since)
        return changed(self, study, since)

    monkeypatch.setattr(Store, "changed", counted)
    fronts = Fronts(store)
    first = fronts.view("done")
    assert first is not None and fronts.view("done") is first and reads == [-1]
    for i in range(LIMITS + 5):
        assert fronts.view("done", 300.0 + i) is not None
    assert len(fronts._studies["done"].views) == LIMITS and reads == [-1]
    trial = store.trials("done", role="trial")[0]
    store.add_numbers(trial.id, trial.numbers)
    again = fronts.view("done")
    assert again is not first and again == first
    assert len(reads) == 2 and reads[1] > 0
    assert fronts.view("nothing") is None and "nothing" not in fronts._studies


def test_a_front_becomes_json_once_until_its_study_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    as_dict = FrontView.as_dict

    def counted(self: FrontView, member: Any) -> Any:
        made.append(member)
        return as_dict(self, member)

    fronts = Fronts(store)
    expected = fresh(store, "done")
    monkeypatch.setattr(FrontView, "as_dict", counted)
    first = fronts.document("done", None, None, True)
    assert first is not None and json.loads(first) == expected and len(made) == len(expected)
    assert fronts.document("done", None, None, True) is first and len(made) == len(expected)
    alone = fronts.document("done", None, None, False)
    assert alone is not None and json.loads(alone) == [m for m in expected if not m["reference"]]
    limited = fronts.document("done", 400.0, None, True)
    assert limited is not None and limited != first
    for i in range(DOCUMENTS + 5):
        fronts.document("done", 300.0 + i, None, False)
    assert len(fronts._studies["done"].documents) == DOCUMENTS
    trial = store.trials("done", role="trial")[0]
    store.add_numbers(trial.id, trial.numbers)
    made.clear()
    again = fronts.document("done", None, None, True)
    assert again == first and len(made) == len(expected)
    assert fronts.document("nothing", None, None, False) is None


def test_many_trials_are_read_without_collections_and_left_out_of_later_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collecting: list[bool] = []
    changed = Store.changed

    def watched(self: Store, study: str, since: int = -1) -> Any:
        collecting.append(gc.isenabled())
        return changed(self, study, since)

    monkeypatch.setattr(Store, "changed", watched)
    before = gc.get_freeze_count()
    Fronts(store).view("done")
    assert collecting == [False] and gc.isenabled() and gc.get_freeze_count() == before
    rows = len(store.trials("done"))
    monkeypatch.setattr(module, "MANY", rows)
    fronts = Fronts(store)
    try:
        view = fronts.view("done")
        assert view is not None and gc.get_freeze_count() > before + rows
        frozen = gc.get_freeze_count()
        store.add_numbers(store.trials("done", role="trial")[0].id, [])
        fronts.view("done")
        assert gc.get_freeze_count() <= frozen  # one trial is not many
    finally:
        gc.unfreeze()
    monkeypatch.setattr(Store, "changed", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Fronts(store).view("done")
    assert gc.isenabled()
