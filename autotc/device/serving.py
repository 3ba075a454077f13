"""Serving, simulated: continuous batching over the times of a device, to see what fewer tokens are worth, or cost.

One engine on one GPU. Requests arrive at random (Poisson). A step takes up to `chunk` prompt tokens of the requests
that were admitted, in their order, and one token of every request that decodes. A request is admitted when its whole
cache fits; its images go through the tower and its tokens are chosen when its prefill begins.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from autotc._charge import plan_of, stages_of
from autotc._flops import kv_bytes
from autotc.anatomy import Anatomy
from autotc.device.timing import Timing
from autotc.errors import SpecError
from autotc.policy import Policy
from autotc.workload import Request


@dataclass(frozen=True)
class Engine:
    """How the engine is set.

    Args:
        chunk: prompt tokens a step at most.
        slots: requests that decode at the same time at most.
        memory_share: of the device's memory that may be used.
    """

    chunk: int = 2048
    slots: int = 256
    memory_share: float = 0.9


@dataclass(frozen=True)
class Limits:
    """What users must not wait longer for: milliseconds to the first token and a later token, at a percentile."""

    ttft_ms: float = 1000.0
    tpot_ms: float = 50.0
    percentile: float = 95.0


@dataclass(frozen=True)
class Load:
    """One kind of request under one policy, in the device's times.

    Args:
        rows: tokens (image and prompt) of a request in each distinct decoder layer count, with how many layers.
        entering: tokens of the first layer.
        context: mean over layers of the tokens in the cache when the prompt has been read.
        tower_ms, choose_ms: before and during the prefill of so many requests that begin together.
        cache_bytes: when its last token is generated.
        new_tokens: to generate.
    """

    rows: tuple[tuple[int, int], ...]
    entering: int
    context: float
    tower_ms: Callable[[int], float]
    choose_ms: Callable[[int], float]
    cache_bytes: float
    new_tokens: int


@dataclass(frozen=True)
class Served:
    """What came out at one rate of arrivals.

    Args:
        offered: requests a second that arrived.
        finished: requests a second that were finished, from the first arrival to the last end.
        ttft_ms, tpot_ms: percentiles asked for, over requests.
        batch: decoding requests a step, mean over time.
        busy: share of the time in which the engine worked.
        joules: a request; None where the device's power is unknown.
        requests: simulated.
    """

    offered: float
    finished: float
    ttft_ms: float
    tpot_ms: float
    batch: float
    busy: float
    joules: float | None
    requests: int


def load_of(timing: Timing, anatomy: Anatomy, policy: Policy | None, request: Request) -> Load:
    """Return what one request asks of a device under a policy."""
    plan = plan_of(stages_of(policy, anatomy), anatomy, request, None)
    seen = [request.images * n + request.prompt_tokens for n in plan.decoder]
    return Load(
        rows=tuple(sorted(Counter(seen).items(), reverse=True)),
        entering=seen[0],
        context=sum(seen) / len(seen),
        tower_ms=cache(lambda together: timing.tower_ms(plan, request.images * together)),
        choose_ms=cache(lambda together: timing.choose_ms(policy, request, together)),
        cache_bytes=sum(kv_bytes(anatomy, request, plan.decoder)),
        new_tokens=request.new_tokens,
    )


@dataclass
class _Job:
    arrived: float
    left: int  # prompt tokens still to be read
    made: int = 0
    first: float = 0.0


def simulate(
    timing: Timing,
    load: Load,
    rate: float,
    *,
    requests: int = 400,
    engine: Engine = Engine(),
    percentile: float = 95.0,
    seed: int = 0,
    room_bytes: float | None = None,
) -> Served:
    """Serve `requests` that arrive at `rate` a second.

    Args:
        timing: the device.
        load: each request.
        rate: requests a second; infinity: all are there at once, which gives the most the engine can do.
        room_bytes: for the cache; by default what weights leave of the engine's share of the memory.

    Raises:
        SpecError: not even one request fits into the memory.
    """
    room = room_for_cache(timing, engine) if room_bytes is None else room_bytes
    if load.cache_bytes > room:
        raise SpecError(
            f"serving on {timing.name}: the cache of one request ({load.cache_bytes / 2**30:.2f} GiB) does not "
            f"fit into the {max(room, 0) / 2**30:.2f} GiB that the weights leave"
        )
    most = min(engine.slots, int(room // load.cache_bytes))
    draw = random.Random(seed)
    arrivals, at = [], 0.0
    for _ in range(requests):
        at += draw.expovariate(rate) if math.isfinite(rate) else 0.0
        arrivals.append(at)
    waiting = deque(_Job(a, load.entering) for a in arrivals)
    reading: deque[_Job] = deque()
    writing: list[_Job] = []
    done: list[tuple[float, float]] = []
    clock = busy = joules = batch_time = 0.0
    while waiting or reading or writing:
        while waiting and waiting[0].arrived <= clock and len(reading) + len(writing) < most:
            reading.append(waiting.popleft())
        if not reading and not writing:
            idle = waiting[0].arrived - clock
            joules += timing.watts.get("idle", 0.0) * idle
            clock = waiting[0].arrived
            continue
        prefill, finished = _read(timing, load, reading, engine.chunk)
        decode = 0.0
        if writing:
            decode = timing.decode_ms(
                len(writing), load.context + sum(j.made for j in writing) / len(writing)
            )
            if prefill:  # the weights are read once for both
                decode = max(0.0, decode - timing.decode_ms(1, 1))
        spent = (prefill + decode) / 1e3
        clock, busy, batch_time = clock + spent, busy + spent, batch_time + spent * len(writing)
        joules += (
            timing.watts.get("prefill", 0.0) * prefill + timing.watts.get("decode", 0.0) * decode
        ) / 1e3
        for job in writing:
            job.made += 1
        for job in finished:
            job.first, job.made = clock, 1
        writing += finished
        for job in [j for j in writing if j.made >= load.new_tokens]:
            later = (clock - job.first) / max(load.new_tokens - 1, 1)
            done.append((job.first - job.arrived, later))
        writing = [j for j in writing if j.made < load.new_tokens]
    lasted = max(clock - arrivals[0], 1e-9)
    return Served(
        offered=rate,
        finished=requests / lasted,
        ttft_ms=1e3 * _percentile([d[0] for d in done], percentile),
        tpot_ms=1e3 * _percentile([d[1] for d in done], percentile),
        batch=batch_time / max(busy, 1e-9),
        busy=busy / lasted,
        joules=joules / requests if timing.watts else None,
        requests=requests,
    )


def _read(timing: Timing, load: Load, reading: deque[_Job], chunk: int) -> tuple[float, list[_Job]]:
    """Read up to `chunk` tokens of the prompts in line; return the milliseconds and who is through."""
    left, finished = chunk, []
    tokens = begun = 0
    while reading and left > 0:
        job = reading[0]
        begun += job.left == load.entering
        taken = min(left, job.left)
        job.left, left, tokens = job.left - taken, left - taken, tokens + taken
        if job.left:
            break
        finished.append(reading.popleft())
    requests = tokens / load.entering
    # choosing waits for the tower, and nothing overlaps with either
    spent = load.tower_ms(begun) + load.choose_ms(begun) if begun else 0.0
    spent += sum(layers * timing.layer_ms(rows, requests) for rows, layers in load.rows)
    return (spent + timing.head_ms(max(1, len(finished))) if tokens else 0.0), finished


def room_for_cache(timing: Timing, engine: Engine) -> float:
    """Return the bytes that are left for caches."""
    return engine.memory_share * timing.memory_bytes - timing.resident_bytes()


def capacity(
    serve: Callable[[float], Served], limits: Limits, most: float, steps: int = 14
) -> tuple[float, Served]:
    """Return the highest rate whose waits stay within the limits, by bisection, and what happens at it.

    Args:
        serve: simulates a rate.
        limits: for the waits at the percentile that `serve` reports.
        most: a rate beyond which there is nothing.

    Returns:
        The rate, 0 where even a lone request waits too long, and the result at it (or of the lone requests).
    """

    def fine(served: Served) -> bool:
        return served.ttft_ms <= limits.ttft_ms and served.tpot_ms <= limits.tpot_ms

    low, result = most * 1e-3, serve(most * 1e-3)
    if not fine(result):
        return 0.0, result
    high = most
    for _ in range(steps):
        middle = math.sqrt(low * high)
        served = serve(middle)
        if fine(served):
            low, result = middle, served
        else:
            high = middle
    return low, result


def report(
    timing: Timing,
    anatomy: Anatomy,
    policy: Policy | None,
    request: Request,
    limits: Limits,
    engine: Engine = Engine(),
    gpu_hour_price: float | None = None,
    requests: int = 400,
    seed: int = 0,
) -> dict[str, Any]:
    """Simulate a policy on a device: throughput within the limits, waits, cost and energy.

    Returns:
        Plain JSON data; every figure is `kind: simulated`, and `rests_on` says on what.
    """
    load = load_of(timing, anatomy, policy, request)

    def serve(rate: float) -> Served:
        percentile = limits.percentile
        return simulate(
            timing, load, rate, requests=requests, engine=engine, percentile=percentile, seed=seed
        )

    top = serve(math.inf).finished
    rate, served = capacity(serve, limits, 1.2 * top)
    cost = None if gpu_hour_price is None or rate == 0 else gpu_hour_price / 3600 / rate * 1e6
    return {
        "kind": "simulated",
        "rests_on": f"{timing.kind} times of {timing.name}",
        "requests_per_s": rate,
        "requests_per_s_without_limits": top,
        "cost_per_million": cost,
        "within": rate > 0,
        "limits": asdict(limits),
        "at_that_rate": {**asdict(served), "offered": served.offered},
        "choose_ms": load.choose_ms(1),
        "cache_requests": min(engine.slots, int(room_for_cache(timing, engine) // load.cache_bytes)),
    }


def _percentile(values: list[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(percent / 100 * len(ordered)) - 1))]
