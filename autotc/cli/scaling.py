"""`bench store` and `bench api`: what many stored trials and many requests cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotc.cli.options import Json, print_json, say

Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder that also gets the result as JSON, and a page over all results."),
]


def bench_store(
    trials: Annotated[
        int,
        typer.Option("--trials", min=1000, help="Of the largest study; others have a tenth and a hundredth."),
    ] = 100_000,
    repeats: Annotated[int, typer.Option("--repeats", min=2, help="Of each step.")] = 30,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="A database that is empty or was filled by this command; default: a SQLite file that is removed.",
        ),
    ] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fill a database with made-up trials of 28 parameters and time a worker's steps, fronts and the dashboard's reads.

    100,000 trials take minutes and some GiB to write. For PostgreSQL: --storage postgresql://USER:PASSWORD@HOST/EMPTY
    """
    from autotc import running
    from autotc.search.spec import SearchSpec
    from autotc.search.study import Study
    from autotc.service import bench, page
    from autotc.store import Store

    spec = SearchSpec(model="qwen2.5-vl", max_tflops=800)
    space = Study(spec, Store("sqlite://", check=False), running.prepare(spec)).space
    found = bench.run(storage, trials, repeats, space, say)
    if out is not None:
        page.write(out, f"store-{found['database'].split()[0]}", found)
    if as_json:
        print_json(found)
        return
    load = found["load"]
    typer.echo(
        f"{found['database']}: {found['trials']:,} trials of {found['parameters']} parameters, written in "
        f"{found['fill_s']:,.0f} s; load average {load['before'][0]:.1f} before, {load['after'][0]:.1f} after\n"
    )
    typer.echo(page.steps(found), nl=False)


def bench_api(
    trials: Annotated[
        int, typer.Option("--trials", min=100, help="Of the study that is asked about.")
    ] = 10_000,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long.")] = 120.0,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Requests a second.")] = 50.0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Read jobs, studies, fronts and policies from `autotc serve` at a fixed rate, over loopback.

    Exit code 1 when an answer was an error.
    """
    from autotc.service import load, page

    found = load.run(trials, seconds, rate, say)
    if out is not None:
        page.write(out, "api", found)
    if as_json:
        print_json(found)
    else:
        average = found["load"]
        missed = ", missed" if found["p99_s"] > found["bar_s"] else ""
        typer.echo(
            f"{found['requests']:,} requests at {rate:g} a second, {found['errors']} errors; load average "
            f"{average['before'][0]:.1f} before, {average['after'][0]:.1f} after\n"
            f"p50 {_ms(found['p50_s'])}, p99 {_ms(found['p99_s'])} (bar {_ms(found['bar_s'])}{missed}), worst "
            f"{_ms(found['worst_s'])}; slowest first request after the start {_ms(found['first_s'])}"
        )
        if found["server_cpu_s"] is not None:
            typer.echo(f"{_ms(found['server_cpu_s'])} of processor time a request\n")
        for path in found["paths"]:
            typer.echo(
                f"{path['path']:40} {path['requests']:6}  p50 {_ms(path['p50_s'])}, p99 {_ms(path['p99_s'])}"
            )
    if found["errors"]:
        say(f"the first errors: {'; '.join(found['first_errors'])}")
        raise typer.Exit(1)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"
