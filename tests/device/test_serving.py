"""The simulation of serving against what can be said by hand, and that it can show harm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
import torch

from autotc.adapter import anatomy
from autotc.device import batches
from autotc.device.clock import Times
from autotc.device.serving import Engine, Limits, Load, capacity, load_of, report, simulate
from autotc.device.timing import Roofline, Surface
from autotc.errors import SpecError
from autotc.policy import ModelRef, Policy, Stage
from autotc.workload import H100, Request


@dataclass(frozen=True)
class Linear:
    """A device whose times are sums: 1 ms per 100 rows and layer, 2 ms a decoding step plus 0.1 ms a request."""

    name: str = "linear"
    kind: Literal["measured", "estimated"] = "estimated"
    memory_bytes: float = 1000.0
    watts: Mapping[str, float] = field(default_factory=dict)

    def tower_ms(self, plan: Any, images: float) -> float:
        return 0.0

    def layer_ms(self, tokens: float, batch: float) -> float:
        return tokens * batch / 100

    def decode_ms(self, batch: float, context: float) -> float:
        return 2 + 0.1 * batch

    def head_ms(self, batch: float) -> float:
        return 0.0

    def choose_ms(self, policy: Any, request: Any, batch: float) -> float:
        return 0.0

    def resident_bytes(self) -> float:
        return 100.0

    def working_bytes(self, request: Any, plan: Any, batch: float) -> float:
        return 0.0


LOAD = Load(
    rows=((100, 10),),
    entering=100,
    context=100,
    tower_ms=lambda n: 3 * n,
    choose_ms=lambda n: 0,
    cache_bytes=10,
    new_tokens=1,
)
ALL_AT_ONCE = math.inf


def test_prompts_alone_take_what_they_take() -> None:
    served = simulate(Linear(), LOAD, ALL_AT_ONCE, requests=50, engine=Engine(chunk=100))
    assert served.finished == pytest.approx(1000 / 13)  # 3 ms of tower and 10 layers of 1 ms
    assert served.ttft_ms == pytest.approx(48 * 13)  # the 48th of 50 at the 95th percentile
    assert served.busy == pytest.approx(1.0)


def test_a_queue_of_one_server_waits_as_theory_says() -> None:
    """Poisson arrivals, fixed service T, load r: the mean wait is r T / (2 (1 - r)); here by the median of T alone."""
    light = simulate(Linear(), LOAD, 1.0, requests=300, engine=Engine(chunk=100), percentile=50)
    assert light.ttft_ms == pytest.approx(13.0)  # nobody waits
    waits = []
    for percent in range(1, 100, 2):
        served = simulate(
            Linear(), LOAD, 0.6 * 1000 / 13, requests=20_000, engine=Engine(chunk=100), percentile=percent
        )
        waits.append(served.ttft_ms - 13)
    expected = 0.6 * 13 / (2 * 0.4)
    assert sum(waits) / len(waits) == pytest.approx(
        expected, rel=0.1
    )  # percentiles stop at 99: a little less


def test_decoding_is_shared() -> None:
    load = replace(LOAD, new_tokens=11)
    alone = simulate(Linear(), load, ALL_AT_ONCE, requests=1, engine=Engine(chunk=100))
    assert alone.tpot_ms == pytest.approx(2.1) and alone.ttft_ms == pytest.approx(13)
    # all ten prompts in one step, then ten steps for all of them
    together = simulate(Linear(), load, ALL_AT_ONCE, requests=10, engine=Engine(chunk=1000))
    assert together.finished == pytest.approx(10 / (10 * 0.013 + 10 * 0.003))
    assert together.tpot_ms == pytest.approx(3.0)


def test_the_memory_limits_how_many_are_served_at_once() -> None:
    load = replace(LOAD, new_tokens=101, tower_ms=lambda n: 0)
    tight = replace(load, cache_bytes=400)  # two fit into 900 - 100
    assert simulate(Linear(), tight, ALL_AT_ONCE, requests=40).batch < 2.01
    small = simulate(Linear(), replace(load, cache_bytes=100), ALL_AT_ONCE, requests=40)
    assert small.finished > 2 * simulate(Linear(), tight, ALL_AT_ONCE, requests=40).finished
    with pytest.raises(SpecError, match="the cache of one request"):
        simulate(Linear(), replace(load, cache_bytes=900), ALL_AT_ONCE, requests=2)


def test_energy_needs_the_power() -> None:
    watts = {"idle": 100.0, "prefill": 600.0, "decode": 400.0}
    load = replace(LOAD, new_tokens=11)
    served = simulate(replace(Linear(), watts=watts), load, ALL_AT_ONCE, requests=1)
    assert served.joules == pytest.approx(600 * 0.013 + 400 * 10 * 0.0021)
    assert simulate(Linear(), load, ALL_AT_ONCE, requests=1).joules is None


def test_capacity_is_where_the_waits_reach_the_limit() -> None:
    def serve(rate: float) -> Any:
        return simulate(Linear(), LOAD, rate, requests=2000, engine=Engine(chunk=100))

    rate, served = capacity(serve, Limits(ttft_ms=60, tpot_ms=50), 1000 / 13)
    assert served.ttft_ms <= 60 < serve(1.1 * rate).ttft_ms
    assert capacity(serve, Limits(ttft_ms=12.9, tpot_ms=50), 1000 / 13)[0] == 0.0


QWEN = anatomy("qwen2.5-vl")


def policy(*stages: Stage) -> Policy:
    ref = ModelRef(
        family=QWEN.family, id=QWEN.id, decoder_layers=QWEN.decoder.layers, vision_blocks=QWEN.vision.blocks
    )
    return Policy(model=ref, stages=stages)


HALF = policy(Stage(site="projector", reducer="uniform", keep=0.5))


class Slow(Roofline):
    """A device on which choosing takes as long as half of the whole prefill."""

    def choose_ms(self, policy: Policy | None, request: Request, batch: float) -> float:
        return 0.0 if policy is None else 12.0 * batch


def test_fewer_tokens_serve_more_when_the_prefill_is_the_limit() -> None:
    timing, request = Roofline(QWEN, H100), Request(new_tokens=1)
    whole, half = (report(timing, QWEN, p, request, Limits(), requests=200) for p in (None, HALF))
    assert half["requests_per_s"] > 1.2 * whole["requests_per_s"]
    assert whole["kind"] == half["kind"] == "simulated" and "data sheet" in whole["rests_on"]


def test_it_shows_harm_where_choosing_costs_more_than_it_saves() -> None:
    request = Request(new_tokens=1)
    whole, half = (report(Slow(QWEN, H100), QWEN, p, request, Limits(), requests=200) for p in (None, HALF))
    assert half["requests_per_s"] < 0.8 * whole["requests_per_s"]
    assert half["choose_ms"] == 12.0


def test_it_shows_no_gain_where_neither_prefill_nor_memory_is_the_limit() -> None:
    tiny = Request(width=56, height=56, prompt_tokens=512, new_tokens=512)
    timing = Roofline(QWEN, H100)
    whole, half = (report(timing, QWEN, p, tiny, Limits(), requests=100) for p in (None, HALF))
    assert half["requests_per_s"] == pytest.approx(whole["requests_per_s"], rel=0.03)


def test_cost_is_price_over_throughput() -> None:
    found = report(Roofline(QWEN, H100), QWEN, None, Request(), Limits(), gpu_hour_price=3.6, requests=60)
    assert found["cost_per_million"] == pytest.approx(1000 / found["requests_per_s"])


def test_a_load_counts_what_each_layer_sees() -> None:
    cut = policy(Stage(site="decoder", layer=10, reducer="fastv", keep=0.25))
    load = load_of(Roofline(QWEN, H100), QWEN, cut, Request())
    assert load.rows == ((640, 10), (208, 18)) and load.entering == 640
    assert load.context == pytest.approx((640 * 10 + 208 * 18) / 28)


def test_a_surface_is_exact_at_its_points_and_a_power_law_between() -> None:
    points = [[n, b, 0.5 * n**1.2 * b**0.8] for n in (64, 256, 1024) for b in (1, 8, 64)]
    surface = Surface(points)
    for n, b, value in points:
        assert surface.at(n, b) == pytest.approx(value)
    assert surface.at(500, 20) == pytest.approx(0.5 * 500**1.2 * 20**0.8)
    assert surface.at(4096, 64) == pytest.approx(0.5 * 4096**1.2 * 64**0.8)
    with pytest.raises(SpecError, match="holes"):
        Surface(points[:-1])


def _answered(ms_of: Callable[[int], float]) -> Callable[[Policy | None, int], Times]:
    return lambda policy, batch: Times(tuple(ms_of(batch) * f for f in (0.99, 1.0, 1.0, 1.0, 1.02)))


def test_batches_of_a_device_that_is_what_the_table_says_are_simulated_as_they_are_measured() -> None:
    """A device of sums: 28 layers of a millisecond per 100 rows, then 2 + 0.1 b ms a token."""
    request = Request(width=56, height=56, prompt_tokens=96, new_tokens=11)  # 100 rows
    true = _answered(lambda batch: 28.0 * batch + 10 * (2 + 0.1 * batch))
    rows = list(batches.compare(Linear(memory_bytes=1e12), QWEN, [("uncompressed", None)], request, true))
    assert [row["batch"] for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    assert all(row["error"] == pytest.approx(0.0, abs=1e-9) for row in rows)
    assert rows[3]["measured"]["requests_per_s"] == pytest.approx(1e3 * 8 / (28 * 8 + 28))
    assert rows[3]["measured"]["p10"] < rows[3]["measured"]["requests_per_s"] < rows[3]["measured"]["p90"]
    assert batches.verdict(rows) == {
        "bar": 0.1,
        "worst": pytest.approx(0, abs=1e-9),
        "failed": 0,
        "met": True,
    }


def test_a_device_that_is_not_what_the_table_says_is_told_batch_by_batch() -> None:
    request = Request(width=56, height=56, prompt_tokens=96, new_tokens=11)
    slower = _answered(lambda batch: (28.0 * batch + 10 * (2 + 0.1 * batch)) * (1.3 if batch > 8 else 1.0))
    timing = Linear(memory_bytes=1e12)
    rows = list(batches.compare(timing, QWEN, [("uncompressed", None)], request, slower, (8, 16)))
    assert [row["error"] for row in rows] == [pytest.approx(0, abs=1e-9), pytest.approx(0.3)]
    assert not batches.verdict(rows)["met"] and batches.verdict(rows)["worst"] == pytest.approx(0.3)


def test_a_batch_that_does_not_fit_is_a_line_and_not_a_pass() -> None:
    def answer(policy: Policy | None, batch: int) -> Times:
        if batch > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.\nand more")
        return Times((28.0,))

    request, timing = Request(width=56, height=56, prompt_tokens=96, new_tokens=1), Linear(memory_bytes=1e12)
    rows = list(batches.compare(timing, QWEN, [("uncompressed", None)], request, answer, (1, 2)))
    assert "error" in rows[0] and rows[1]["failed"].endswith("Tried to allocate 2.50 GiB.")
    found = batches.verdict(rows)
    assert found["failed"] == 1 and found["worst"] == pytest.approx(0, abs=1e-9) and not found["met"]
    assert not batches.verdict(rows[1:])["met"] and batches.verdict(rows[1:])["worst"] is None
