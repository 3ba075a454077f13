"""`cost`, `eval`, `verify` and `bench`: what a policy costs and does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from autotc.cli.options import (
    Device,
    Json,
    Model,
    PageFolder,
    SkipBad,
    Storage,
    WorkloadOption,
    print_json,
    say,
)
from autotc.errors import SpecError, UnsupportedError

Examples = Annotated[int, typer.Option("--examples", min=2, help="Examples measured.")]
FreeRunning = Annotated[
    int,
    typer.Option(
        "--free-running",
        min=0,
        help="Examples whose answers the model also writes itself, token by token.",
    ),
]


def cost(
    model: Model,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Cost of this policy; default: uncompressed.")
    ] = None,
    visual_tokens: Annotated[
        int | None, typer.Option("--visual-tokens", min=1, help="Cost with this many visual tokens an image.")
    ] = None,
    workload: WorkloadOption = "vqa",
    as_json: Json = False,
) -> None:
    """Estimate FLOPs and memory of a model, compressed or not, without weights."""
    from autotc.adapter import resolve_model
    from autotc.cost import estimate, estimate_tokens
    from autotc.policy import load_policy
    from autotc.tables import figures
    from autotc.workload import parse_workload

    if policy and visual_tokens:
        raise SpecError("--policy and --visual-tokens exclude one another: give one of them")
    anatomy, load = resolve_model(model).anatomy, parse_workload(workload)
    document = load_policy(policy) if policy else None
    if document:
        from autotc.apply import check

        check(document, anatomy)
    found = (
        estimate_tokens(anatomy, load, visual_tokens) if visual_tokens else estimate(document, anatomy, load)
    )
    if as_json:
        print_json({"model": anatomy.id, "workload": load.describe(), **found.as_dict()})
    else:
        figures.cost(anatomy, load, document, found)


def eval_(
    model: Annotated[
        str | None,
        typer.Option("--model", help="A folder with weights, or an alias (then its proxy is used)."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A policy document; default: uncompressed.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study", help="With --pictures: draw the front of this stored study; nothing else is measured."
        ),
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", min=0, help="With --study: this trial instead of the front.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="JSONL; default: the built-in scenes.")] = None,
    examples: Examples = 256,
    split: Annotated[str, typer.Option("--split", help="search, selection or held-out.")] = "held-out",
    free_running: FreeRunning = 64,
    skip_bad: SkipBad = False,
    pictures: Annotated[
        int,
        typer.Option("--pictures", min=0, help="Draw what is kept of so many images, for the dashboard."),
    ] = 0,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Measure a policy on data: task score, agreement with the uncompressed model, and what the average hides.

    That is the worst question group, answers that flipped, a second question on the same pruned cache, longer
    answers, and answers that the model writes itself.
    """
    if study is not None:
        if policy is not None or not pictures:
            raise SpecError(
                f"--study: draws stored policies: autotc eval --study {study} --pictures 12; --policy does not go "
                "with it"
            )
        _draw(storage, study, pictures, model, trial, as_json)
        return
    if model is None:
        raise SpecError(
            "--model: give a folder with weights or an alias, or a --study whose policies are drawn"
        )
    from autotc.policy import load_policy
    from autotc.running import make_task
    from autotc.tables import figures
    from autotc.verify import measure

    task = make_task(str(data) if data else None, skip_bad)
    measured = measure(
        model, load_policy(policy) if policy else None, task, split, examples, free_running=free_running
    )
    if pictures:
        from autotc.picturing import of_policy

        drawn = of_policy(model, load_policy(policy) if policy else None, task, split, pictures, storage)
        say(f"Pictures: {drawn} (shown by: autotc dashboard)")
    if as_json:
        print_json(measured.as_dict())
    else:
        figures.measurement(measured)


def _draw(
    storage: str | None, study: str, n: int, model: str | None, trial: int | None, as_json: bool
) -> None:
    from autotc.picturing import of_study

    drawn = of_study(storage, study, n, model, trial)
    if as_json:
        print_json({**vars(drawn), "folder": str(drawn.folder)})
    else:
        typer.echo(
            f"{drawn.made} policies drawn, {drawn.there} were there: {drawn.folder} (shown by: autotc dashboard)"
        )
    if drawn.left:
        raise UnsupportedError(
            f"--study: {study} ran on real weights, which are not loaded unasked; name them with --model FOLDER"
        )


def verify(
    policy: Annotated[Path, typer.Argument(help="The policy document.")],
    model: Annotated[str, typer.Option("--model", help="The folder with the real weights.")],
    data: Annotated[Path, typer.Option("--data", help="Your own JSONL.")],
    examples: Examples = 512,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0.0, max=1.0, help="Largest accepted loss of quality.")
    ] = 0.02,
    free_running: FreeRunning = 64,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a policy on the real weights and your data; mark it verified when it loses no more than --max-drop."""
    from autotc.running import make_task
    from autotc.tables import figures
    from autotc.verify import verify as run

    task = make_task(str(data), skip_bad)
    result = run(policy, model, task, examples, max_drop, free_running, device)
    if as_json:
        print_json(result.as_dict())
    else:
        figures.verdict(result)
    if not result.passed:
        raise typer.Exit(1)


def bench_evaluate(
    model: Annotated[str, typer.Option("--model", help="An alias, or a folder with weights.")] = "qwen2.5-vl",
    max_tflops: Annotated[
        float, typer.Option("--max-tflops", help="Limit of the search whose policies are run.")
    ] = 800,
    policies: Annotated[
        int, typer.Option("--policies", min=1, help="The first policies of `search --seed 0`.")
    ] = 20,
    examples: Annotated[int, typer.Option("--examples", min=2, help="Examples a policy.")] = 256,
    as_json: Json = False,
) -> None:
    """Time the first policies of a search with and without reuse of shared work, in one process."""
    from autotc import running
    from autotc.tables import figures

    result = running.bench_evaluate(model, max_tflops, policies, examples)
    if as_json:
        print_json(result)
    else:
        figures.bench(result)


def bench_methods(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="An alias whose family has a proxy; may be given several times."),
    ] = None,
    examples: Annotated[int, typer.Option("--examples", min=2, help="Held-out examples a policy.")] = 512,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the boards, the table and the picture.")
    ] = Path("studies/leaderboard"),
    draw_only: Annotated[
        bool, typer.Option("--draw-only", help="Write table and picture from the boards that are there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure every method and published recipe at equal exact cost; an interrupted run goes on where it was.

    Takes about 20 minutes a model on two cores.
    """
    from autotc import running
    from autotc.leaderboard import Board

    for model in () if draw_only else models or ("qwen2.5-vl", "llava-1.5-7b"):
        running.bench_methods(model, examples, out)
    if draw_only:
        running.draw_leaderboard(out)
    boards = [Board.read(path) for path in sorted(out.glob("*.json"))]
    if as_json:
        print_json([board.as_dict() for board in boards])
        return
    for board in boards:
        typer.echo(
            f"{board.on}: {len(board.rows)} policies measured, {len(board.left_out)} left out with a reason"
        )
    typer.echo(f"Table: {out / 'README.md'}\nPicture: {out / 'methods.png'}")


def bench_reducers(
    tokens: Annotated[int, typer.Option("--tokens", min=4, help="Tokens of the image.")] = 576,
    only: Annotated[
        list[str] | None, typer.Option("--reducer", help="Only this one; may be given several times.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=2, help="Timed runs of each.")] = 7,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of torch.")] = 1,
    out: PageFolder = None,
    as_json: Json = False,
) -> None:
    """Time each reducer's own decision at d = 4096 on the CPU, against the cosine map of the same tokens."""
    from autotc import reducer_bench
    from autotc.export import write_text
    from autotc.reducer import reducers
    from autotc.tables import figures

    for name in only or ():
        reducers.get(name)  # an unknown name is refused before anything is timed
    result = reducer_bench.run(
        tokens, only or (), repeats, threads, each=lambda name: typer.echo(f"{name} ...", err=True)
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "README.md", reducer_bench.page(result))
        write_text(out / "results.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        print_json(result)
    else:
        figures.reducer_times(result)
