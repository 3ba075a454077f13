"""`bench kernels`, `bench apply`, `bench device`, `bench serving`: what a GPU does, and what it would serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from autotc.cli.options import Json, Model, WorkloadOption, print_json, say
from autotc.errors import SpecError

Device = Annotated[
    str,
    typer.Option(
        "--device", help="cuda, cuda:1, ... or cpu: small sizes, to try the command; never a GPU's figure."
    ),
]
Repeats = Annotated[int, typer.Option("--repeats", min=3, help="Timed runs of each, after a warm-up.")]
Table = Annotated[
    Path | None,
    typer.Option(
        "--table",
        help="A device table to predict from; `bench apply`: auto is the one of this GPU in studies/device, if any.",
    ),
]


def bench_kernels(
    only: Annotated[
        list[str] | None,
        typer.Option("--operation", help="Only this one (repeatable). See: autotc list kernels."),
    ] = None,
    device: Device = "cuda",
    repeats: Repeats = 20,
    out: Annotated[
        Path | None, typer.Option("--out", help="CSV to put the figures into; the same card's are replaced.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time every operation on CUDA and by the reference, captured and compiled too, against what the card can do."""
    from dataclasses import asdict

    from autotc.device import clock, table
    from autotc.export import write_text
    from autotc.kernels import bench, dispatch
    from autotc.registry import nearest
    from autotc.tables import devices

    for name in only or ():
        if name not in dispatch.OPERATIONS:
            raise SpecError(f"--operation: unknown {name!r}. {nearest(name, dispatch.OPERATIONS)}")
    where, gpu, _ = table.device_of(device)
    real = where.type == "cuda"
    rates = {
        "copy_bytes_per_s": clock.copy_bytes_per_s(where, 1 << (30 if real else 20)),
        "matmul_flops_per_s": clock.matmul_flops_per_s(where, 8192 if real else 128),
    }

    def timed(work: Any) -> tuple[float, float, float]:
        found = clock.timed(work, where, repeats)
        return found.median, found.p10, found.p90

    def captured(work: Any) -> Any:
        return clock.captured(work, where)

    results = bench.run(where, gpu, timed, captured, rates, only=only or (), large=real, say=say)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, bench.table(results, out.read_text(encoding="utf-8") if out.exists() else ""))
    if as_json:
        print_json({"gpu": gpu, **rates, "results": [asdict(r) for r in results]})
    else:
        devices.kernels(gpu, rates, results)


def bench_device(
    models: Annotated[
        list[str] | None, typer.Option("--model", help="An alias, id or folder (repeatable).")
    ] = None,
    device: Device = "cuda",
    repeats: Repeats = 20,
    out: Annotated[Path, typer.Option("--out", help="Folder of the tables.")] = Path("studies/device"),
    as_json: Json = False,
) -> None:
    """Measure the table of a device: layer, tower, output head and decoding times against tokens and batch, memory.

    Weights are random where the real ones are not at hand: shapes decide, and the table says so.
    """
    from autotc.adapter import anatomy
    from autotc.device import table
    from autotc.export import write_text
    from autotc.tables import devices

    where, gpu, memory = table.device_of(device)
    real = where.type == "cuda"
    entries = {}
    for name in models or ["qwen2.5-vl"]:
        say(f"{name}: building")
        model, on = table.build(name, where)
        small: dict[str, Any] = {} if real else table.SMALL
        entry = table.measure(model, on, where, repeats=repeats, say=say, **small)
        card = _card(where)
        entry["watts"] = {} if card is None else table.power(model, where, card)
        entries[_plain_id(name) if real else anatomy(model).id] = entry
        del model
    say("choosing")
    chosen, failed = table.choosing(where, *((576, 8) if real else (16, 1)), repeats=repeats)
    for name, why in failed.items():
        say(f"{name} failed on {gpu}: {why}")
    for entry in entries.values():
        entry["choose_ms"], entry["choose_failed"] = chosen, failed
        entry["choose_at"] = {"tokens": 576, "batch": 8} if real else {"tokens": 16, "batch": 1}
    path = out / f"{_slug(gpu)}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    card = _card(where)
    driver = None if card is None else card.about()["driver"]
    data = table.joined(known, gpu, memory, where, entries, driver)
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, indent=1) + "\n")
    if as_json:
        print_json(data)
    else:
        devices.table(path, data, list(entries))


def bench_apply(
    model: Model = "qwen2.5-vl",
    policies: Annotated[
        list[Path] | None,
        typer.Option("--policy", help="A policy document (repeatable); default: some recipes."),
    ] = None,
    batches: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, help="Requests at once (repeatable); a ragged one follows."),
    ] = None,
    workload: WorkloadOption = "images=1,resolution=1344x1344,prompt=64,new=32",
    device: Device = "cuda",
    repeats: Repeats = 20,
    table_file: Table = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON to write the figures into.")] = None,
    as_json: Json = False,
) -> None:
    """Time prefill and whole answers of policies against the uncompressed model, next to the ratio of exact FLOPs."""
    from autotc.adapter import anatomy
    from autotc.device import speed, table
    from autotc.device.timing import Table as DeviceTable
    from autotc.export import write_text
    from autotc.policy import load_policy
    from autotc.tables import devices
    from autotc.workload import Request, parse_workload

    where, gpu, _ = table.device_of(device)
    real = where.type == "cuda"
    request = parse_workload(workload).requests[0] if real else Request(width=56, height=56, new_tokens=2)
    built, on = table.build(model, where)
    numbers = anatomy(built)
    if policies:
        chosen = [(str(path), load_policy(path)) for path in policies]
    else:
        chosen = speed.recipes(numbers, request)
    chosen = [(name, p.model_copy(update={"status": "verified"})) for name, p in chosen]
    if table_file == Path("auto"):
        found = Path("studies/device") / f"{_slug(gpu)}.json"
        table_file = found if found.exists() else None
    timing = None if table_file is None else DeviceTable.read(table_file, _named(numbers, model, real))
    rows = speed.compare(
        built, on, chosen, request, batches or ((1, 8, 64) if real else (1,)), where,
        timing=timing, repeats=repeats, say=say,
    )  # fmt: skip
    result = {"gpu": gpu, "on": on, "request": request.__dict__, "rows": rows}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(result, indent=1) + "\n")
    if as_json:
        print_json(result)
    else:
        devices.speed(result)


def bench_serving(
    model: Model = "qwen2.5-vl",
    policies: Annotated[
        list[Path] | None, typer.Option("--policy", help="A policy document (repeatable).")
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
    as_json: Json = False,
) -> None:
    """Simulate serving on one GPU: requests a second within limits on waiting, cost and energy, a policy a row.

    Times come from a device table, else from the H100's data sheet, which no real card reaches; the output says which.
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
    timing: Timing = Roofline(anatomy, H100) if table_file is None else DeviceTable.read(table_file, anatomy)
    limits = serving.Limits(ttft_ms, tpot_ms, percentile)
    rows = []
    for name, policy in [("uncompressed", None), *((str(p), load_policy(p)) for p in policies or ())]:
        if policy is not None:
            check(policy, anatomy)
        found = serving.report(
            timing, anatomy, policy, load.requests[0], limits,
            gpu_hour_price=gpu_hour_price, requests=requests, seed=seed,
        )  # fmt: skip
        rows.append({"policy": name, **found})
    if as_json:
        print_json({"model": anatomy.id, "workload": load.describe(), "rows": rows})
    else:
        devices.serving(anatomy.id, load.describe(), rows)


def _plain_id(name: str) -> str:
    from autotc.adapter import resolve_model

    return resolve_model(name).anatomy.id


def _named(numbers: Any, model: str, real: bool) -> Any:
    from dataclasses import replace

    return replace(numbers, id=_plain_id(model)) if real else numbers


def _slug(gpu: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in gpu.lower()).split())


def _card(device: Any) -> Any:
    """Return the card as NVML shows it; None off a GPU or where NVML cannot be asked, which is said."""
    from autotc.errors import UnsupportedError

    if device.type != "cuda":
        return None
    from autotc.measure import Card, uuid_of

    try:
        return Card(uuid_of(device.index or 0))
    except UnsupportedError as error:
        say(str(error))
        return None
