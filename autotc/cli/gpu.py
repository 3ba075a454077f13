"""`bench kernels`, `bench device`, `bench apply`: what a GPU does."""

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
        help="A device table to predict from; auto: the one of this GPU beside --out or in studies/device, if any.",
    ),
]
LIMIT_S = 3.0  # of the runs of one provider on one case


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
    conditions(where)
    real = where.type == "cuda"
    rates = {
        "copy_bytes_per_s": clock.copy_bytes_per_s(where, 1 << (30 if real else 20)),
        "matmul_flops_per_s": clock.matmul_flops_per_s(where, 8192 if real else 128),
    }

    def timed(work: Any) -> tuple[float, float, float]:
        found = clock.timed(work, where, repeats, limit_s=LIMIT_S, alone=True)
        return found.median, found.p10, found.p90

    def captured(work: Any) -> Any:
        return clock.captured(work, where)

    results = []
    for result in bench.run(where, gpu, timed, captured, rates, only=only or (), large=real, say=say):
        results.append(result)
        if out is not None:  # as they come: what is cut short is not lost
            out.parent.mkdir(parents=True, exist_ok=True)
            write_text(out, bench.table([result], out.read_text(encoding="utf-8") if out.exists() else ""))
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
    card, seen = _card(where), conditions(where)
    path = out / f"{_slug(gpu)}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data = table.started(known, gpu, memory, where, None if card is None else card.about()["driver"])
    out.mkdir(parents=True, exist_ok=True)
    size = (576, 8) if real else (16, 1)
    names = []
    for name in models or ["qwen2.5-vl"]:
        say(f"{name}: building")
        model, on = table.build(name, where)
        small: dict[str, Any] = {} if real else table.SMALL
        entry = table.measure(model, on, where, repeats=repeats, say=say, **small)
        entry |= seen
        entry["watts"] = {} if card is None else table.power(model, where, card)
        names.append(_plain_id(name) if real else anatomy(model).id)
        data["models"][names[-1]] = data["models"].get(names[-1], {}) | entry
        write_text(path, json.dumps(data, indent=1) + "\n")  # as they come: what is cut short is not lost
        del model
    say("choosing")
    chosen, failed = table.choosing(where, *size, repeats=repeats)
    for name, why in failed.items():
        say(f"{name} failed on {gpu}: {why}")
    for name in names:
        entry = data["models"][name]
        entry["choose_ms"], entry["choose_failed"] = chosen, failed
        entry["choose_at"] = {"tokens": size[0], "batch": size[1]}
    write_text(path, json.dumps(data, indent=1) + "\n")
    if as_json:
        print_json(data)
    else:
        devices.table(path, data, names)


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
    import torch

    from autotc.adapter import anatomy
    from autotc.device import speed, table
    from autotc.device.timing import Table as DeviceTable
    from autotc.policy import load_policy
    from autotc.tables import devices
    from autotc.workload import Request, parse_workload

    where, gpu, _ = table.device_of(device)
    seen = conditions(where)
    real = where.type == "cuda"
    request = parse_workload(workload).requests[0] if real else Request(width=56, height=56, new_tokens=2)
    built, on = table.build(model, where)
    numbers = anatomy(built)
    if policies:
        chosen = [(str(path), load_policy(path)) for path in policies]
    else:
        chosen = speed.recipes(numbers, request)
    chosen = [(name, p.model_copy(update={"status": "verified"})) for name, p in chosen]
    automatic = table_file == Path("auto")
    table_file = table_of(table_file, gpu, out)
    timing = None
    if table_file is not None:
        try:
            timing = DeviceTable.read(table_file, named(numbers, model, real))
        except SpecError as error:
            if not automatic:
                raise
            say(f"nothing is predicted: {error}")
    sizes = batches or ((8, 1, 64) if real else (1,))
    asked = {
        "gpu": gpu,
        "torch": torch.__version__,
        "on": on,
        "request": request.__dict__,
        "batches": list(sizes),
    }
    result: dict[str, Any] = {**asked, **seen, "finished": False, "rows": []}
    known = unfinished(out, asked)
    for row in speed.compare(
        built, on, chosen, request, sizes, where, timing=timing, repeats=repeats, known=known, say=say
    ):
        result["rows"].append(row)
        keep(out, result)
    result["finished"] = True
    keep(out, result)
    if as_json:
        print_json(result)
    else:
        devices.speed(result)


def _plain_id(name: str) -> str:
    from autotc.adapter import resolve_model

    return resolve_model(name).anatomy.id


def named(numbers: Any, model: str, real: bool) -> Any:
    from dataclasses import replace

    return replace(numbers, id=_plain_id(model)) if real else numbers


def _slug(gpu: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in gpu.lower()).split())


def table_of(path: Path | None, gpu: str, out: Path | None) -> Path | None:
    """Return a table's file; `auto` is the one of this GPU beside what is written or in studies/device, if any."""
    if path != Path("auto"):
        return path
    folders = [Path("studies/device")] if out is None else [out.parent, Path("studies/device")]
    return next((f for f in (folder / f"{_slug(gpu)}.json" for folder in folders) if f.exists()), None)


def unfinished(path: Path | None, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the same measurement that was cut short; none where it is another, or finished."""
    if path is None or not path.exists():
        return []
    data = json.loads(path.read_text(encoding="utf-8"))
    same = all(data.get(name) == value for name, value in json.loads(json.dumps(asked)).items())
    return data["rows"] if same and not data["finished"] else []


def keep(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as far as it is; what is cut short is not lost."""
    from autotc.export import write_text

    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(result, indent=1) + "\n")


def conditions(device: Any) -> dict[str, Any]:
    """Return, and say where it matters, what figures depend on: the chooser of tokens, and others on the card."""
    from autotc.kernels.dispatch import chooser

    card = _card(device)
    others = (
        () if card is None else card.state().others
    )  # before this process has anything on the card itself
    chosen = chooser(device)
    disturbed = []
    if others:
        many = f"{len(others)} other process{'es' * (len(others) > 1)} on the card"
        disturbed.append(f"{many}: times and memory here are not those of the card alone")
    if card is not None and card.about()["mig"]:
        disturbed.append("a MIG slice: times and memory are the slice's, and its energy stays unknown")
    if device.type == "cuda" and chosen != "cuda":
        say(
            f"times of choosing are of plain PyTorch, not of the CUDA operations ({chosen.partition(': ')[2]})"
        )
    for line in disturbed:
        say(line)
    return {"operations": chosen, "disturbed": disturbed}


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
