"""From the words of `autotc search` to a finished run: what it runs on, the run itself, what is printed."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from autotc.adapter import ModelSource, resolve_model
from autotc.calibration import named, verdict
from autotc.errors import ModelError, UnsupportedError
from autotc.export import write_text
from autotc.pairs import Pair, screen_for
from autotc.price import prices
from autotc.progress import SearchProgress, duration
from autotc.proxies import proxy_folder
from autotc.search._patience import Patience
from autotc.search.before import unmeasured, without_answers
from autotc.search.on_ray import RayStudy
from autotc.search.result import Result
from autotc.search.setting import Setting
from autotc.search.spec import PROXY_TIMEOUT_S, SearchSpec
from autotc.search.study import Study
from autotc.store import Store
from autotc.tables.console import console
from autotc.tables.fronts import FrontView
from autotc.task import SPLITS, Task
from autotc.weights import placement
from autotc.workload import H100

if TYPE_CHECKING:
    from autotc._process import EvaluatorProcess
    from autotc.device.gauge import Gauge
    from autotc.workload import Workload

STARTED = time.monotonic()
OPTIONS = frozenset(SearchSpec.model_fields) - {"reducers", "constraints", "objectives"}


def search(options: dict[str, Any], quiet: bool) -> Result:
    """Run, or go on with, the search that the options describe.

    Raises:
        SpecError: an option, the model or the data cannot be used; nothing was written.
        StoreError: the database cannot be used.
    """
    spec = SearchSpec.from_options(options)
    setting = prepare(spec)
    progress = SearchProgress(quiet)
    make = partial(RayStudy, prepare=prepare) if spec.executor == "ray" else Study
    store = Store(spec.storage)
    patiently = Patience(partial(_time_left, spec.timeout), progress.say, store)
    study = make(spec, store, setting, progress, STARTED, patiently=patiently)
    said = () if quiet else (*setting.notes, study.power)
    for note in said:
        console.print(note)
    with progress:
        result = study.run()
    return replace(result, notes=tuple(note for note in result.notes if note not in said))


def _time_left(timeout: float | None) -> bool:
    return timeout is None or time.monotonic() - STARTED < timeout


def prepare(spec: SearchSpec) -> Setting:
    """Decide what runs (the real weights or the proxy), on which examples, for which requests.

    Raises:
        ModelError: unknown model, or neither weights nor a proxy at hand.
        DataError: the data file cannot be used.
    """
    source = resolve_model(spec.model, spec.download)
    folder, on, note = _evaluated(source, spec.evaluate_on)
    task = make_task(spec.data, spec.skip_bad)
    notes = [note]
    if spec.data and not task.answered:
        notes += without_answers(spec)
    workload = spec.parsed_workload()
    if spec.data and spec.workload is None:
        workload = task.workload()  # type: ignore[attr-defined]
        notes.append(f"Costs are for the data's own mix: {workload.describe()}.")
    if spec.max_tflops is None:
        notes.append("No --max-tflops was given: presets keep every token, and the front covers all costs.")
    if spec.objectives and "latency_ms" in spec.objectives and not spec.measure:
        notes.append(
            f"latency_ms is predicted for {H100.name}; --measure takes it on the GPU of this machine."
        )
    proxy = on.startswith("proxy:")
    screen = None
    if not proxy and spec.data and proxy_folder(source.family) is not None:
        pair = Pair.find(str(folder))
        of_proxy = partial(make_evaluator, pair.proxy, None, False, pair.on)
        screen, note = screen_for(Store(spec.storage), pair, task.fingerprint, of_proxy)
        notes.append(note)
    wanted = {
        "search": spec.examples,
        "selection": spec.selection_examples,
        "held-out": spec.heldout_examples,
    }
    # reads the pictures that will be asked for, so that a bad one is reported before anything runs
    sizes: dict[str, int] = (
        {split: len(task.examples(split, wanted[split])) for split in SPLITS} if spec.data else {}
    )
    notes += unmeasured(spec, task, wanted)
    skipped = getattr(task, "skipped", [])
    if skipped:
        notes.append(
            f"{len(skipped)} lines with unreadable images were left out, the first in line {skipped[0][0]}."
        )
    if any(n < wanted[split] for split, n in sizes.items()):
        notes.append(
            "The data is small: " + ", ".join(f"{n} examples in {s}" for s, n in sizes.items()) + "."
        )
    return Setting(
        full=source.anatomy,
        evaluated=resolve_model(str(folder)).anatomy,
        on=on,
        workload=workload,
        evaluator=partial(make_evaluator, folder, spec.data, spec.skip_bad, on, device=spec.device),
        data=task.fingerprint,
        sizes=sizes,
        timeout=PROXY_TIMEOUT_S if proxy else None,
        screen=screen,
        gauge=_gauge(spec, workload, notes) if spec.measure else None,
        notes=tuple(notes),
    )


def _gauge(spec: SearchSpec, workload: Workload, notes: list[str]) -> Gauge:
    """Return what measures trials on the GPU of `--device`.

    Raises:
        UnsupportedError: there is no GPU, or the workload has several shapes.
    """
    from autotc.device.gauge import MEASURED, DeviceGauge
    from autotc.device.table import device_of

    device, gpu, memory = device_of(
        "cuda" if spec.device == "auto" else spec.device, "without --measure, costs are estimates"
    )
    if device.type != "cuda":
        raise UnsupportedError(
            "--measure: latency and memory are measured on an NVIDIA GPU; leave --device out"
        )
    notes.append(
        f"Latency and peak memory are measured on {gpu}, a process a trial; random weights where the real ones are "
        "not at hand."
        + (
            ""
            if any(m.name in MEASURED for m in spec.all_objectives())
            else " The references' stay estimates."
        )
    )
    return DeviceGauge(spec.model, workload, str(device), memory / 2**30)


def bench_evaluate(model: str, max_tflops: float, policies: int, examples: int) -> dict[str, Any]:
    """Run the first policies of `search --seed 0`, then time them with and without reuse in this process.

    Raises:
        SpecError: the model or the limit cannot be used.
    """
    from autotc.reuse_bench import reuse_benchmark

    few = {"selection_examples": 16, "heldout_examples": 16}
    with tempfile.TemporaryDirectory() as folder, SearchProgress() as progress:
        options = {
            "model": model,
            "max_tflops": max_tflops,
            "trials": policies,
            "examples": examples,
            "seed": 0,
        }
        spec = SearchSpec.from_options({**options, **few, "storage": f"sqlite:///{folder}/bench.db"})
        setting = prepare(spec)
        store = Store(spec.storage)
        study = Study(spec, store, replace(setting, timeout=None), progress)
        study.run()
        found = [row.policy.for_model(setting.evaluated) for row in store.trials(study.name, role="trial")]
        store.close()
    model_folder: Path = setting.evaluator.args[0]  # type: ignore[attr-defined]
    return reuse_benchmark(model_folder, make_task(None), found, examples, on=setting.on, threads=1)


def bench_methods(model: str, examples: int, folder: Path) -> Path:
    """Fill the leaderboard of one model in a folder, and draw the table and the picture of all that are there.

    What the folder holds already is kept, so that an interrupted run goes on.

    Returns:
        The board's file.

    Raises:
        ModelError: unknown model, or no proxy of its family.
        SpecError: the folder cannot be written to.
    """
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    from autotc import leaderboard as lb
    from autotc.workload import parse_workload

    source = resolve_model(model)
    proxy, on, _ = _evaluated(source, "proxy")
    full, evaluated, workload = source.anatomy, resolve_model(str(proxy)).anatomy, parse_workload("vqa")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{proxy.name}.json"
    entries, limits, left_out = lb.plan(full, evaluated, workload)
    request = workload.requests[0]
    tokens = full.visual_tokens(request.width, request.height)
    board = lb.Board(source.id, on, examples, workload.describe(), tokens, limits, [], left_out)
    if path.is_file():
        old = lb.Board.read(path)
        wanted = {(e.label, e.share) for e in entries}
        if (old.examples, old.on) == (examples, on):
            board.rows = [row for row in old.rows if (row.label, row.share) in wanted]

    def save(board: lb.Board) -> None:
        write_text(path, json.dumps(board.as_dict(), indent=1, ensure_ascii=False) + "\n")

    with (
        make_evaluator(proxy, None, False, on) as evaluator,
        Progress(
            *Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True)
        ) as progress,
    ):
        task = progress.add_task("methods", total=len(entries))

        def done(entry: lb.Entry) -> None:
            progress.update(
                task, advance=1, description=f"{entry.label} at {round(entry.share * tokens)} tokens"
            )
            save(board)

        lb.measure(board, entries, evaluator, full, evaluated, workload, done)
    save(board)
    draw_leaderboard(folder)
    return path


def draw_leaderboard(folder: Path) -> None:
    """Write `README.md` and `methods.png` from the boards in a folder."""
    from autotc import leaderboard as lb

    boards = [lb.Board.read(path) for path in sorted(folder.glob("*.json"))]
    write_text(folder / "README.md", lb.table(boards))
    lb.picture(boards).write(folder / "methods.png")


def make_task(data: str | None, skip_bad: bool = False) -> Task:
    """Return the built-in scenes, or a user's JSONL."""
    if data is None:
        from autotc.tasks.scenes import Scenes

        return Scenes()
    from autotc.tasks.jsonl import Jsonl

    return Jsonl(Path(data), skip_bad)


def make_evaluator(
    folder: Path, data: str | None, skip_bad: bool, on: str, processes: int = 1, device: str = "auto"
) -> EvaluatorProcess:
    """Build the evaluator of one of `processes` searching processes, which share the machine."""
    from autotc._process import EvaluatorProcess

    options = placement(folder, resolve_model(str(folder)).anatomy, device, processes)
    return EvaluatorProcess(folder, make_task(data, skip_bad), on=on, **options)


def _evaluated(source: ModelSource, evaluate_on: str) -> tuple[Path, str, str]:
    """Return (folder that runs, how numbers name it, a plain line for the user)."""
    fits = source.anatomy.parameters * source.anatomy.bytes_per_parameter < 0.7 * _memory_bytes()
    if evaluate_on == "full" or (evaluate_on == "auto" and source.weights and fits):
        if source.folder is None or not source.weights:
            raise ModelError(
                f"--evaluate-on full: no weights of {source.id} on this machine. Give a folder with --model, allow "
                "--download, or use --evaluate-on proxy"
            )
        return source.folder, source.id, f"Quality is measured on the real weights in {source.folder}."
    folder = proxy_folder(source.family)
    if folder is None:
        raise ModelError(
            f"--evaluate-on proxy: no proxy ships for the family {source.family}; give a folder with weights to --model"
        )
    why = (
        "were not found here"
        if not source.weights
        else "do not fit into memory"
        if not fits
        else "were not asked for"
    )
    return (
        folder,
        f"proxy:{folder.name}",
        f"Quality is measured on {named(f'proxy:{folder.name}')}, as the weights of {source.id} {why}; "
        "costs are those of the full model.",
    )


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def print_result(result: Result, storage: str | None, profile: bool) -> None:
    """Print the front, what it is compared with, and what to type next."""
    headings = {"finished": "Finished", "stopped": "Time is up", "interrupted": "Interrupted"}
    console.print()
    store, view = Store(storage, check=False), None
    if result.trials or result.references:
        patiently = Patience(lambda: True, SearchProgress().say)
        view = patiently(lambda: FrontView.read(store, result.study, None, None))
        view.print(patiently(lambda: prices(store, result.study, view.within)))
    console.print()
    for line in (*(claim.text for claim in result.claims), *result.no_claims):
        console.print(escape(line), soft_wrap=True)
    if result.disagreement:
        console.print(result.disagreement)
    judged = verdict(view.evaluated_on) if view is not None else None
    if judged is not None:
        console.print(judged.text)
    if result.claims:
        console.print(f"[dim]Held-out data looked at {result.looks} times in this study.[/]")
    for note in result.notes:
        console.print(f"[dim]note: {note}[/]")
    if result.plateau is not None:
        console.print(f"{result.plateau.text}.")
    heading = "Nothing more to try" if result.exhausted else headings[result.state]
    console.print(
        f"\n[bold]{heading}[/]: {result.trials} of {result.total} trials, "
        f"{len(result.front)} on the front, {duration(time.monotonic() - STARTED)} min. Next:"
    )
    for line in result.next:
        console.print(f"  {line}", markup=False)
    if profile:
        shares = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in result.profile.parts_s.items())
        console.print(
            f"profile: {result.profile.wall_s:.1f} s after start-up, {result.profile.outside:.1%} outside the "
            f"evaluator ({shares})"
        )
