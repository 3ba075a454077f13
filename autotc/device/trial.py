"""One policy on one device, measured: prefill, decode, peak memory and energy, in a process of its own.

    python -m autotc.device.trial < request.json > answer.json

A fresh process, because what the driver reports depends on what an allocator held before.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from autotc.errors import AutotcError, UnsupportedError
from autotc.policy import Number, Policy
from autotc.workload import Request

TIMEOUT_S = 900


def measure(
    model: str,
    policy: Policy | None,
    requests: list[Request],
    device: str = "cuda:0",
    repeats: int = 20,
    energy: bool = True,
) -> dict[str, Any]:
    """Measure a policy on a model in a fresh process.

    Args:
        model: alias, id or folder.
        policy: written for it; None: uncompressed.
        requests: the batch, a request a row.
        device: of torch.
        repeats: timed prefills, after a warm-up.
        energy: also measure joules (a few seconds more).

    Returns:
        `numbers` (plain `Number`s), `on`, `device`, `operations` (what chose tokens, and why not CUDA), `card` (what
        NVML saw, None off a GPU), and `out_of_memory`: None, or what was held, asked for and needed at least, in GiB.

    Raises:
        UnsupportedError: the process was refused something by name, or ended without an answer.
    """
    order = {
        "model": model,
        "policy": None
        if policy is None
        else policy.model_dump(mode="json", by_alias=True, exclude_none=True),
        "requests": [asdict(r) for r in requests],
        "device": device,
        "repeats": repeats,
        "energy": energy,
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "autotc.device.trial"],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            env=environment,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedError(f"measuring {model} took longer than {TIMEOUT_S} s and was ended") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnsupportedError(f"measuring {model} on {device} ended with code {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "refused" in answer:
        raise UnsupportedError(answer["refused"])
    return answer


def _child(order: dict[str, Any]) -> dict[str, Any]:
    import torch

    device = torch.device(order["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError(
            f"{order['device']}: torch sees no NVIDIA GPU (no driver, one too old for this torch, or no device "
            "given to this process); nothing was measured"
        )
    card, why = _card(device)
    context = nullcontext() if card is None else _watch(card)
    held: list[Any] = []
    try:
        with context:
            found = _measure(order, device, card, held)
    except torch.OutOfMemoryError as error:
        found = {"numbers": [], "on": order["model"], "out_of_memory": _need(str(error), device)}
    seen = getattr(context, "observation", None)
    if seen is not None:
        peak = seen.peak(torch.cuda.max_memory_reserved(device))
        found["card"] = {**card.about(), **seen.as_dict()}
        found["card"]["memory_method"] = peak.method
        if peak.value is not None and not found.get("out_of_memory"):
            found["numbers"].append(_number("memory_gib", peak.value / 2**30, "GiB", found["on"], 1))
    else:
        found["card"] = None if why is None else {"unknown": why}
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return found


def _card(device: Any) -> tuple[Any, str | None]:
    """Return the card as NVML knows it, or None and why not."""
    if device.type != "cuda":
        return None, None
    from autotc.measure import Card, uuid_of

    try:
        return Card(uuid_of(device.index or 0)), None
    except UnsupportedError as error:
        return None, str(error)


def _watch(card: Any) -> Any:
    from autotc.measure import Watch

    return Watch(card)


def _measure(order: dict[str, Any], device: Any, card: Any, held: list[Any]) -> dict[str, Any]:
    import torch

    from autotc.adapter import resolve_model
    from autotc.apply import compress
    from autotc.device.building import prompt, random_model
    from autotc.device.clock import timed
    from autotc.kernels.dispatch import chooser
    from autotc.measure import energy_of, idle_watts
    from autotc.policy import load_policy

    requests = [Request(**r) for r in order["requests"]]
    policy = None if order["policy"] is None else load_policy(order["policy"])
    idle = None if card is None or not order["energy"] else idle_watts(card)
    model, on = random_model(
        order["model"], device, torch.bfloat16 if device.type == "cuda" else torch.float32
    )
    inputs = prompt(model, resolve_model(order["model"]).anatomy, requests, device)
    new = max(r.new_tokens for r in requests)
    applied = (
        nullcontext() if policy is None else compress(model, policy.model_copy(update={"status": "verified"}))
    )
    numbers: list[dict[str, Any]] = []
    repeats = order["repeats"]

    def generate(tokens: int) -> Any:
        return model.generate(
            **inputs,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )

    with torch.inference_mode(), applied:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        first = timed(lambda: generate(1), device, repeats)
        for name, value in (
            ("latency_ms", first.median),
            ("latency_ms_p10", first.p10),
            ("latency_ms_p90", first.p90),
        ):
            numbers.append(_number(name, value, "ms", on, repeats, first.stderr))
        if new > 1:
            whole = timed(lambda: generate(new), device, max(3, repeats // 4), 1)
            each = (whole.median - first.median) / (new - 1)
            error = (whole.stderr**2 + first.stderr**2) ** 0.5 / (new - 1)
            numbers.append(_number("decode_ms_per_token", each, "ms", on, len(whole.ms), error))
            numbers.append(_number("end_to_end_ms", whole.median, "ms", on, len(whole.ms), whole.stderr))
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) / 2**30
            numbers.append(_number("torch_peak_gib", peak, "GiB", on, 1))
        method = None
        if card is not None and order["energy"]:
            spent = energy_of(card, lambda: generate(new), lambda: torch.cuda.synchronize(device), idle)
            method = spent.method
            if spent.value is not None:
                joules = spent.value / len(requests)
                numbers.append(_number("joules_per_request", joules, "J", on, 1))
    held.append(model)
    found = {"numbers": numbers, "on": on, "out_of_memory": None, "energy_method": method}
    return {**found, "operations": chooser(device)}


def _number(
    name: str, value: float, unit: str, on: str, n: int, stderr: float | None = None
) -> dict[str, Any]:
    number = Number(name=name, value=value, unit=unit, kind="measured", on=on, n=n, stderr=stderr)
    return number.model_dump(mode="json")


def _need(message: str, device: Any) -> dict[str, float | None]:
    """Read the need from an out-of-memory error: what torch held, and what it asked for on top."""
    import torch

    asked = re.search(r"[Tt]ried to allocate ([\d.]+) ([KMG]iB)", message)
    scale = {"KiB": 2**20, "MiB": 2**10, "GiB": 1}
    held = torch.cuda.memory_allocated(device) / 2**30 if device.type == "cuda" else None
    more = None if asked is None else float(asked[1]) / scale[asked[2]]
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    need = None if peak is None or more is None else max(peak, (held or 0) + more)
    return {"held_gib": held, "asked_gib": more, "need_gib": need}


def main() -> None:
    """Be the child."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get into the answer
    try:
        answer = _child(json.load(sys.stdin))
    except AutotcError as error:
        answer = {"refused": str(error)}
    json.dump(answer, out)
    out.close()


if __name__ == "__main__":
    main()
