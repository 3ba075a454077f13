"""Calibrations of proxies: entered once, filled anchor by anchor, found again by their weights and data."""

from __future__ import annotations

import json

import pytest

from autotc.errors import StoreError
from autotc.store import Store
from tests.store.builders import number, policy

KEY = ("/models/mine", "m1", "proxy:tiny", "p1", "d1", 128)
OUTCOMES = {
    name: {"id": ["a", "b"], "image": ["x", "y"], "correct": [1.0, 0.0], "full": [1.0, 1.0]}
    for name in ("model", "proxy")
}


def add(store: Store, calibration: int, keep: float = 0.5, **changes: object) -> None:
    given = {"costs": {"tflops_exact": 12.0}, "numbers": [number(0.5)], "outcomes": OUTCOMES, **changes}
    store.add_anchor(calibration, f"fastv {keep}", keep, policy(keep), **given)  # type: ignore[arg-type]


def test_it_is_entered_once_and_goes_on_where_it_was(store: Store) -> None:
    first = store.start_calibration(*KEY)
    assert (first.model, first.result, first.finished, first.anchors) == ("/models/mine", None, None, [])
    add(store, first.id)
    again = store.start_calibration(*KEY)
    assert (again.id, again.created) == (first.id, first.created)
    (anchor,) = again.anchors
    assert anchor.policy == policy(0.5) and anchor.numbers == [number(0.5)]
    assert (anchor.label, anchor.share, anchor.reason) == ("fastv 0.5", 0.5, None)
    assert anchor.outcomes == OUTCOMES and anchor.costs == {"tflops_exact": 12.0}
    assert store.start_calibration(*KEY[:-1], 64).id != first.id


def test_an_anchor_is_replaced_not_doubled(store: Store) -> None:
    it = store.start_calibration(*KEY)
    add(store, it.id, outcomes=None, numbers=[], reason="out of memory")
    assert store.calibrations()[0].anchors[0].reason == "out of memory"
    add(store, it.id)
    add(store, it.id, 0.25)
    assert [(a.share, a.reason) for a in store.calibrations()[0].anchors] == [(0.5, None), (0.25, None)]


def test_only_a_finished_one_of_the_same_weights_and_data_is_found(store: Store) -> None:
    assert store.calibration("m1", "p1", "d1") is None
    it = store.start_calibration(*KEY)
    assert store.calibration("m1", "p1", "d1") is None
    store.finish_calibration(it.id, {"rho": 0.5})
    found = store.calibration("m1", "p1", "d1")
    assert found is not None and found.result == {"rho": 0.5} and found.finished is not None
    for other in (("m2", "p1", "d1"), ("m1", "p2", "d1"), ("m1", "p1", "d2")):
        assert store.calibration(*other) is None
    store.finish_calibration(it.id, {"rho": 0.6})
    larger = store.start_calibration(*KEY[:-1], 256)
    store.finish_calibration(larger.id, {"rho": 0.7})
    latest = store.calibration("m1", "p1", "d1")
    assert latest is not None and (latest.examples, latest.result) == (256, {"rho": 0.7})
    assert [row.result for row in store.calibrations()] == [{"rho": 0.6}, {"rho": 0.7}]
    json.dumps(latest.as_dict())


def test_nothing_is_written_into_a_calibration_that_is_not_there(store: Store) -> None:
    for write in (lambda: add(store, 7), lambda: store.finish_calibration(7, {})):
        with pytest.raises(StoreError, match="no calibration with id 7"):
            write()
    with pytest.raises(StoreError, match=r"result\.rho: nan is not a figure"):
        store.finish_calibration(store.start_calibration(*KEY).id, {"rho": float("nan")})
