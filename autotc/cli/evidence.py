"""Commands that say how far autotc's figures can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotc.cli.options import Json, PageFolder, print_json, say


def bench_statistics(
    runs: Annotated[
        int, typer.Option("--runs", min=100, help="Simulated data sets for each row of the coverage.")
    ] = 1000,
    studies: Annotated[
        int, typer.Option("--studies", min=2, help="Simulated studies for each row of the racing.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Of the simulation.")] = 0,
    out: PageFolder = None,
    as_json: Json = False,
) -> None:
    """Check by simulation what the statistics promise when questions share images.

    How often do 95 % intervals hold the truth (the bar: 93 to 97 %)? How many members of the final front does racing
    lose (at most 2 %), and how many evaluations does it save? Takes about three minutes on an idle core.
    """
    import json

    from autotc import statistics_bench
    from autotc.export import write_text

    result = statistics_bench.run(runs, studies, seed, each=say)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "README.md", statistics_bench.page(result))
        write_text(out / "results.json", json.dumps(result, indent=1) + "\n")
        say(f"wrote {out / 'README.md'} and {out / 'results.json'}")
    if as_json:
        print_json(result)
    else:
        typer.echo(statistics_bench.page(result), nl=False)


def bench_plateau(
    seeds: Annotated[int, typer.Option("--seeds", min=2, help="Simulated searches of each kind.")] = 20,
    as_json: Json = False,
) -> None:
    """Measure by simulation how often `search --until plateau` stops too early, and what is missed by stopping.

    A stop is false where as many trials again as were judged would have raised the true area under the front by more
    than the standard error that was quoted. Takes about five minutes on an idle core.
    """
    from dataclasses import asdict

    from autotc.search import plateau_bench
    from autotc.tables.console import console, grid

    found = plateau_bench.run(seeds, each=say)
    if as_json:
        print_json([asdict(row) for row in found])
        return
    table = grid(
        "there was to find",
        "searches",
        "stopped",
        "median trial",
        "false",
        "missed",
        left=("there was to find",),
    )
    for row in found:
        figures = (row.searches, row.stopped, f"{row.median:.0f}", row.false, f"{row.missed:.1%}")
        table.add_row(row.climb, *map(str, figures))
    console.print(table)
    console.print(
        f"Missed: of the true area after {plateau_bench.TRIALS} trials, the mean share not there at the stop."
    )


def bench_calibrate(
    proxies: Annotated[
        list[str] | None, typer.Option("--proxy", help="Only this one; may be given several times.")
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=2, help="Questions a policy; another number starts again.")
    ] = 256,
    analyse_only: Annotated[
        bool, typer.Option("--analyse-only", help="Run nothing; analyse the outcomes that the folder holds.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the outcomes, the page and the picture.")
    ] = Path("studies/calibration"),
    as_json: Json = False,
) -> None:
    """Compare the proxies with published results: can they tell published methods apart?

    Runs every method that the published tables name on each proxy at 33, 22 and 11 % of the tokens (78 policies, about
    20 minutes a proxy on two idle cores; an interrupted run goes on where it was), then tests whether the proxy orders
    the pairs of methods that independent measurements settle. The test was fixed beforehand in
    studies/calibration/PROTOCOL.md; its verdict is what autotc prints beside every number of a proxy.
    """
    from autotc.calibration import command

    if not analyse_only:
        for proxy in proxies or command.MODELS:
            command.measure(proxy, examples, out, None, say)
    result = command.analyse(out)
    if as_json:
        print_json(result)
        return
    for found in result["proxies"].values():
        typer.echo(found["text"])
    typer.echo(f"Page: {out / 'README.md'}\nPicture: {out / 'retention.png'}")


def bench_transfer(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME=FOLDER",
            help="Measure the policies on this model first; may be given several times. "
            "NAME is FAMILY-small-SEED or FAMILY-tiny.",
        ),
    ] = None,
    policies: Annotated[int, typer.Option("--policies", min=5, help="How many are drawn.")] = 200,
    examples: Annotated[int, typer.Option("--examples", min=128, help="Scenes' questions a policy.")] = 128,
    depths: Annotated[
        bool, typer.Option("--depths", help="Measure also what depth means in these models.")
    ] = False,
    measure_only: Annotated[
        bool, typer.Option("--measure-only", help="Write outcomes, no page: several models at a time.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the policies, the outcomes, the page and the picture.")
    ] = Path("studies/transfer"),
    as_json: Json = False,
) -> None:
    """Compare how models order policies: the ceiling on what a proxy can say about another model.

    Small models that differ in their training's seed only are made by
    `python -m autotc.proxies.train qwen2_5_vl-small --seed N --out FOLDER` (the model is then in FOLDER/model). Without
    --model nothing runs: page, picture and ceilings are made again from the outcomes that the folder holds.
    """
    from autotc import transfer
    from autotc.errors import SpecError
    from autotc.transfer import command

    named = [model.partition("=") for model in models or ()]
    if wrong := next((name for name, sign, folder in named if not (sign and folder)), None):
        raise SpecError(f"--model {wrong}: expected NAME=FOLDER, for example qwen2_5_vl-small-1=runs/1/model")
    for name, _, folder in named:
        command.run(name, Path(folder), out, policies, examples, depths, say)
    if measure_only:
        return
    result = command.analyse(out, policies)
    if as_json:
        print_json(result)
        return
    for family, found in result["ceilings"].items():
        typer.echo(transfer.make(family, **found).text)
    typer.echo(f"Page: {out / 'README.md'}\nPicture: {out / 'transfer.png'}")
