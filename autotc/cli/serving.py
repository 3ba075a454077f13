"""`bench serving`: what a GPU would serve, and how far that can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from autotc.cli.gpu import Device, Repeats, Table, conditions, keep, named, table_of
from autotc.cli.options import Json, Model, WorkloadOption, print_json, say
from autotc.errors import SpecError


def bench_serving(
    model: Model = "qwen2.5-vl",
    policies: Annotated[
        list[Path] | None,
        typer.Option("--policy", help="A policy document (repeatable); --check: some recipes by default."),
    ] = None,
    workload: WorkloadOption = "vqa",
    table_file: Table = None,
    ttft_ms: Annotated[
        float, typer.Option("--ttft-ms", min=1, help="Longest wait for the first token.")
    ] = 1000,
    tpot_ms: Annotated[float, typer.Option("--tpot-ms", min=1, help="Longest wait for a later token.")] = 50,
    percentile: Annotated[float, typer.Option("--percentile", min=50, max=100, help="Of the waits.")] = 95,
    gpu_hour_price: Annotated[
        float | None, typer.Option("--gpu-hour-price", min=0, help="Of one GPU, in any currency.")
    ] = None,
    requests: Annotated[int, typer.Option("--requests", min=50, help="Simulated at each rate.")] = 400,
    seed: Annotated[int, typer.Option("--seed", help="Of the arrivals.")] = 0,
    check_it: Annotated[
        bool,
        typer.Option(
            "--check", help="Answer batches on the device too, and say how far the simulation is off."
        ),
    ] = False,
    batches: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, help="With --check: requests at once (repeatable); default 1 to 64."),
    ] = None,
    device: Device = "cuda",
    repeats: Repeats = 20,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --check: JSON to write the figures into.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate serving on one GPU: requests a second within limits on waiting, cost and energy, a policy a row.

    Times come from a device table, else from the H100's data sheet, which no real card reaches; the output says which.
    With --check the same policies answer batches on the device, which has to be the table's, and the simulated
    requests a second stand beside the measured ones.
    """
    from autotc.adapter import resolve_model
    from autotc.apply import check
    from autotc.device import serving
    from autotc.device.timing import Roofline, Timing
    from autotc.device.timing import Table as DeviceTable
    from autotc.policy import load_policy
    from autotc.tables import devices
    from autotc.workload import H100, parse_workload

    anatomy, load = resolve_model(model).anatomy, parse_workload(workload)
    if len(load.requests) != 1:
        raise SpecError("--workload: serving is simulated for one shape of request; give one")
    asked = [("uncompressed", None), *((str(p), load_policy(p)) for p in policies or ())]
    for _, policy in asked:
        if policy is not None:
            check(policy, anatomy)
    if check_it:
        _check(model, asked, load, table_file or Path("auto"), batches, device, repeats, out, as_json)
        return
    if out is not None or batches:
        raise SpecError(f"{'--out' if out else '--batch'}: only with --check")
    if table_file == Path("auto"):
        raise SpecError("--table auto: only with --check, which knows the GPU; name the table's file")
    timing: Timing = Roofline(anatomy, H100) if table_file is None else DeviceTable.read(table_file, anatomy)
    limits = serving.Limits(ttft_ms, tpot_ms, percentile)
    rows = []
    for name, policy in asked:
        found = serving.report(
            timing, anatomy, policy, load.requests[0], limits,
            gpu_hour_price=gpu_hour_price, requests=requests, seed=seed,
        )  # fmt: skip
        rows.append({"policy": name, **found})
    if as_json:
        print_json({"model": anatomy.id, "workload": load.describe(), "rows": rows})
    else:
        devices.serving(anatomy.id, load.describe(), rows)


def _check(
    model: str,
    policies: list[tuple[str, Any]],
    load: Any,
    table_file: Path,
    sizes: list[int] | None,
    device: str,
    repeats: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Answer batches on a device, and simulate them."""
    import torch

    from autotc.adapter import anatomy
    from autotc.device import batches, speed, table
    from autotc.device.timing import Table as DeviceTable
    from autotc.tables import devices
    from autotc.workload import Request

    where, gpu, _ = table.device_of(device)
    seen = conditions(where)
    real = where.type == "cuda"
    found = table_of(table_file, gpu, out)
    if found is None:
        raise SpecError(
            f"--check: no table of {gpu} in studies/device. Measure it: autotc bench device --model {model}"
        )
    request = load.requests[0] if real else Request(width=56, height=56, new_tokens=2)
    built, on = table.build(model, where)
    numbers = anatomy(built)
    timing = DeviceTable.read(found, named(numbers, model, real))
    if len(policies) == 1:  # none was named: two recipes stand for policies
        policies = [*policies, *speed.recipes(numbers, request)[:4:2]]
    verified = [(name, p and p.model_copy(update={"status": "verified"})) for name, p in policies]
    result: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "on": on, "table": found.name}
    result |= {"request": request.__dict__, **seen, "rows": []}
    answer = batches.answer_of(built, numbers, request, where, repeats)
    counts = sizes or (batches.BATCHES if real else (1, 2))
    for row in batches.compare(timing, numbers, verified, request, answer, counts, say):
        result["rows"].append(row)
        keep(out, result)
    result |= batches.verdict(result["rows"])
    keep(out, result)
    if as_json:
        print_json(result)
    else:
        devices.batches(result)
