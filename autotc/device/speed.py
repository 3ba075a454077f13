"""How much faster policies are than the uncompressed model, next to the ratio of exact FLOPs; prediction beside it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from autotc.adapter import anatomy as anatomy_of
from autotc.anatomy import Anatomy
from autotc.apply import compress
from autotc.cost import estimate
from autotc.device.building import prompt
from autotc.device.clock import Times, timed
from autotc.device.timing import Timing, predict
from autotc.errors import AutotcError
from autotc.policy import Policy
from autotc.workload import Request, Workload

LIMIT_S = 5.0  # of the runs of one policy at one batch; large batches have fewer, and `n` says how many


def ragged(request: Request, batch: int) -> list[Request]:
    """Return a batch of several resolutions: the request's, and its sides times 0.5, 0.75 and 1.5."""
    scales = (1.0, 0.5, 0.75, 1.5)
    return [
        Request(
            request.images,
            max(28, int(request.width * scales[i % 4])),
            max(28, int(request.height * scales[i % 4])),
            prompt_tokens=request.prompt_tokens,
            new_tokens=request.new_tokens,
        )
        for i in range(batch)
    ]


def compare(
    model: Any,
    on: str,
    policies: Sequence[tuple[str, Policy]],
    request: Request,
    batches: Sequence[int],
    device: torch.device,
    *,
    timing: Timing | None = None,
    repeats: int = 20,
    known: Sequence[Mapping[str, Any]] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """Time prefill and the whole answer, uncompressed and under each policy, batch by batch.

    A ragged batch comes before batches of more than eight, which take longest.

    Args:
        known: rows of the same measurement that was cut short; they are not measured again.

    Yields:
        One row a policy and batch (the uncompressed model first): `prefill` and `end_to_end` times and the
        speed-up of both, `flops_ratio` (exact, tower included), `share_of_ratio` for the prefill, `peak_gib` (the
        card's memory at most in the prefill), `predicted_ms` and `predicted_gib` and their errors where there is a
        table, `kernels` the attention kernels that ran; or `error` in one line.
    """
    anatomy = anatomy_of(model)
    shapes = [(str(b), [request] * b) for b in batches if b <= 8]
    shapes.append(("ragged", ragged(request, 8 if device.type == "cuda" else 2)))
    shapes += [(str(b), [request] * b) for b in batches if b > 8]
    done = {(row["batch"], row["policy"]): dict(row) for row in known if "error" not in row}
    for label, requests in shapes:
        inputs: dict[str, Any] | None = None
        base: dict[str, Any] | None = None
        for name, policy in [("uncompressed", None), *policies]:
            row = done.get((label, name))
            if row is None:
                say(f"batch {label}: {name}")
                row = {"batch": label, "policy": name, "on": on, "kind": "measured"}
                try:
                    inputs = inputs or prompt(model, anatomy, requests, device)
                    applied = nullcontext() if policy is None else compress(model, policy)
                    with torch.inference_mode(), applied:
                        found = _times(model, inputs, request.new_tokens, device, repeats)
                        peak = _peak(model, inputs, device)
                        row["kernels"] = _kernels(model, inputs, device)
                except (
                    AutotcError,
                    RuntimeError,
                ) as error:  # one that fails is a line, not the end of the others
                    row["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                    torch.cuda.empty_cache()
                    yield row
                    continue
                row |= {part: times.as_dict() for part, times in found.items()} | {"peak_gib": peak}
                base = row if policy is None else base
                _judge(row, base, policy, anatomy, requests, timing if label != "ragged" else None)
            base = row if policy is None else base
            yield row


def _judge(
    row: dict[str, Any],
    base: Mapping[str, Any] | None,
    policy: Policy | None,
    anatomy: Anatomy,
    requests: Sequence[Request],
    timing: Timing | None,
) -> None:
    """Set a row's figures against those of the uncompressed model, the exact FLOPs and the prediction."""
    row["flops_ratio"] = _ratio(policy, anatomy, requests)
    if base is not None:  # a batch may be too large for the uncompressed model alone
        for part in ("prefill", "end_to_end"):
            row[f"{part}_speedup"] = base[part]["median_ms"] / row[part]["median_ms"]
        row["share_of_ratio"] = row["prefill_speedup"] / row["flops_ratio"]
    if timing is None:
        return
    first = replace(requests[0], new_tokens=1)
    expected = predict(timing, anatomy, policy, first, len(requests))
    row["predicted_ms"], row["predicted_gib"] = expected.prefill_ms, expected.memory_bytes / 2**30
    row["prediction_error"] = expected.prefill_ms / row["prefill"]["median_ms"] - 1
    if row["peak_gib"] is not None:
        row["memory_error"] = row["predicted_gib"] / row["peak_gib"] - 1


def _peak(model: Any, inputs: dict[str, Any], device: torch.device) -> float | None:
    """Return the most memory of the card during a prefill, GiB: torch's highest, and what the driver counts besides."""
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)
    free, total = torch.cuda.mem_get_info(device)
    besides = total - free - torch.cuda.memory_reserved(device)
    return float(torch.cuda.max_memory_reserved(device) + max(0, besides)) / 2**30


def _times(
    model: Any, inputs: dict[str, Any], new: int, device: torch.device, repeats: int
) -> dict[str, Times]:
    def generate(tokens: int) -> Any:
        return model.generate(
            **inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
        )

    few = max(3, repeats // 4)
    return {
        "prefill": timed(lambda: generate(1), device, repeats, 2, LIMIT_S),
        "end_to_end": timed(lambda: generate(new), device, few, 1, LIMIT_S),
    }


def _ratio(policy: Policy | None, anatomy: Any, requests: Sequence[Request]) -> float:
    """Return how many times fewer exact FLOPs the prefill takes, tower and the choosing included."""

    def prefill(p: Policy | None) -> float:
        total = 0.0
        for request in requests:
            parts = estimate(p, anatomy, Workload((request,))).parts
            total += sum(parts[name] for name in ("tower", "projector", "prefill", "reducers"))
        return total

    return prefill(None) / prefill(policy)


def _kernels(model: Any, inputs: dict[str, Any], device: torch.device) -> list[str]:
    """Return the names of the attention kernels of one prefill, as the profiler saw them."""
    if device.type != "cuda":
        return []
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=0)
            torch.cuda.synchronize(device)
    except RuntimeError as error:  # a machine may keep the profiler from the card; the times stand without it
        return [f"unknown: {str(error).strip().splitlines()[0][:80]}"]
    words = ("flash", "fmha", "attention", "cudnn", "received", "row_log_sums")
    names = {event.key for event in seen.key_averages()}
    return sorted({n.split("<")[0][:80] for n in names if any(w in n.lower() for w in words)})


def recipes(anatomy: Any, request: Request) -> list[tuple[str, Policy]]:
    """Return published recipes at 4x and 10x fewer decoder FLOPs (the papers' counting) on a model.

    Those that cannot be placed there, or do not fit the family, are left out.
    """
    from autotc.apply import check
    from autotc.cost import full_cost, preset_policy
    from autotc.reducer import reducers

    workload = Workload((request,))
    whole = full_cost(anatomy, workload).tflops_literature
    found = []
    for name in ("divprune", "visionzip", "fastv", "pyramiddrop"):
        cls = reducers.get(name)
        for times in (4, 10):
            policy = preset_policy(cls, cls.presets[0], anatomy, workload, whole / times)
            if policy is None:
                continue
            try:
                check(policy, anatomy)
            except AutotcError:
                continue
            found.append((f"{cls.presets[0].name}, {times}x fewer decoder FLOPs", policy))
    return found
