"""Trials whose latency and memory are measured: what is stored, feasible, and what running out of memory becomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autotc.cost import estimate
from autotc.device.gauge import DeviceGauge, Gauged
from autotc.errors import UnsupportedError
from autotc.policy import Number, Policy
from autotc.search.study import Study
from autotc.store import Store
from autotc.workload import Request, Workload
from tests.fakes import FULL
from tests.search.test_study import SETTING, SPEC


def gauge(policy: Policy) -> Gauged:
    """A card that takes a millisecond a token of the first layer, and has no memory for more than 450."""
    cost = estimate(policy, FULL, SETTING.workload)
    if cost.entering_tokens > 450:
        return Gauged(need_gib=17.5, have_gib=16.0, why="out of memory on a fake: needs at least 17.5 GiB")
    value = cost.entering_tokens
    number = Number(
        name="latency_ms", value=value, unit="ms", kind="measured", on="full (random weights)", n=20
    )
    return Gauged(costs={"latency_ms": value, "memory_gib": 15.0}, numbers=(number,))


def test_measured_figures_stand_in_the_place_of_estimates(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    limit = 250.0
    changes = {"trials": 16, "constraints": (f"latency_ms <= {limit}",), "max_tflops": 2800}
    spec = SPEC.model_copy(update=changes)
    result = Study(spec, store, replace(SETTING, gauge=gauge)).run()
    rows = store.trials(result.study, role="trial")
    measured = [row for row in rows if row.number_of("latency_ms", None) is not None]
    assert measured
    for row in measured:
        number = row.number_of("latency_ms", None)
        assert number is not None and number.kind == "measured" and number.on == "full (random weights)"
        assert row.costs["latency_ms"] == number.value and row.costs["memory_gib"] == 15.0
        assert row.violations["latency_ms"] == pytest.approx(number.value - limit)
    assert len({row.violations["latency_ms"] > 0 for row in measured}) == 2  # some within, some not
    for row in rows:
        if estimate(row.policy, FULL, SETTING.workload).entering_tokens > 450:
            assert row.state == "infeasible" and "needs at least 17.5 GiB" in (row.reason or "")
            assert row.violations["memory_gib"] == pytest.approx(1.5)
    assert any(row.violations.get("memory_gib", 0) > 0 for row in rows)


def test_several_shapes_are_not_measured_as_one() -> None:
    both = Workload((Request(), Request(width=336)))
    with pytest.raises(UnsupportedError, match="2 shapes"):
        DeviceGauge("qwen2.5-vl", both, "cuda:0", 80.0)
