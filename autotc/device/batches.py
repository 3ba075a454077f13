"""Simulated throughput against batches that a device answered: how far the simulation of serving can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from autotc.anatomy import Anatomy
from autotc.apply import compress
from autotc.device.building import prompt
from autotc.device.clock import Times, timed
from autotc.device.serving import Engine, load_of, simulate
from autotc.device.timing import Timing
from autotc.errors import AutotcError
from autotc.policy import Policy
from autotc.workload import Request

BATCHES = (1, 2, 4, 8, 16, 32, 64)
BAR = 0.10  # of the measured throughput
LIMIT_S = 5.0  # of the runs of one batch

Answer = Callable[[Policy | None, int], Times]
"""Times of answering a batch of equal requests from images to last token, under a policy."""


def simulated(timing: Timing, anatomy: Anatomy, policy: Policy | None, request: Request, batch: int) -> float:
    """Return the requests a second of a batch that arrives at once and is read in one step, as it was measured."""
    load = load_of(timing, anatomy, policy, request)
    engine = Engine(chunk=batch * load.entering, slots=batch)
    return simulate(timing, load, math.inf, requests=batch, engine=engine).finished


def answer_of(model: Any, anatomy: Anatomy, request: Request, device: torch.device, repeats: int) -> Answer:
    """Return what answers batches on a model and times it."""

    def answer(policy: Policy | None, batch: int) -> Times:
        inputs = prompt(model, anatomy, [request] * batch, device)
        new = request.new_tokens
        with torch.inference_mode(), nullcontext() if policy is None else compress(model, policy):
            return timed(
                lambda: model.generate(
                    **inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
                ),
                device, repeats, 2, LIMIT_S,
            )  # fmt: skip

    return answer


def compare(
    timing: Timing,
    anatomy: Anatomy,
    policies: Sequence[tuple[str, Policy | None]],
    request: Request,
    answer: Answer,
    batches: Sequence[int] = BATCHES,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """Answer every batch under every policy, and simulate it.

    Args:
        timing: of the device that answers.
        anatomy: of the model.
        policies: with their names; None is the uncompressed model.
        request: every one.
        answer: times a batch.

    Yields:
        One row a batch and policy: `measured` (requests a second, p10 and p90 of the runs, how many), `simulated`
        (requests a second) and `error` (simulated over measured, less one), or `failed` in one line.
    """
    for batch in batches:
        for name, policy in policies:
            say(f"batch {batch}: {name}")
            row: dict[str, Any] = {"batch": batch, "policy": name}
            try:
                times = answer(policy, batch)
                expected = simulated(timing, anatomy, policy, request, batch)
            except (AutotcError, RuntimeError) as error:  # a batch that does not fit ends nothing but itself
                row["failed"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                torch.cuda.empty_cache()
                yield row
                continue
            rates = [1e3 * batch / ms for ms in (times.median, times.p90, times.p10)]
            row["measured"] = dict(zip(("requests_per_s", "p10", "p90"), rates, strict=True)) | {
                "n": len(times.ms)
            }
            row["simulated"] = {"requests_per_s": expected}
            row["error"] = expected / rates[0] - 1
            yield row


def verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the worst error, the bar, and whether every batch was measured and is within it."""
    errors = [abs(row["error"]) for row in rows if "error" in row]
    worst = max(errors, default=None)
    met = worst is not None and len(errors) == len(rows) and worst <= BAR
    return {"bar": BAR, "worst": worst, "failed": len(rows) - len(errors), "met": met}
