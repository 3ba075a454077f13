"""`bench testbed` and `bench search`: strategies of the search, compared without running a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotc.cli.options import Json, print_json, say

ModelAlias = Annotated[str, typer.Option("--model", help="An alias whose family has a proxy.")]


def bench_testbed(
    model: ModelAlias = "qwen2.5-vl",
    policies: Annotated[
        int,
        typer.Option(
            "--policies",
            min=1,
            help="Drawn ones; published recipes come on top. More than are there are added.",
        ),
    ] = 2000,
    examples: Annotated[
        int, typer.Option("--examples", min=128, help="Of each policy, a multiple of 128.")
    ] = 512,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, ...")] = "cpu",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of torch.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the policies and outcomes.")] = Path(
        "studies/search-bench"
    ),
    as_json: Json = False,
) -> None:
    """Measure a fixed set of policies on the proxy, for `bench search`; an interrupted run goes on where it was.

    All policies run on 128 examples first, then on the next 128, so what is there can be used at any time.
    """
    from autotc.testbed import command

    found = command.build(model, policies, examples, seed, out, device, threads, say)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"Test-bed {found['status']}\nFiles: {', '.join(found['files'])}")


def bench_search(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Searches of each strategy.")] = 20,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            help="Only this one; may be given several times. gp runs only when named: it is slow.",
        ),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            "--evaluations", min=1, help="Evaluations of an example a search; default: 100 full trials."
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    model: ModelAlias = "qwen2.5-vl",
    bed: Annotated[Path, typer.Option("--bed", help="Folder of the test-bed.")] = Path(
        "studies/search-bench"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", help="Write README.md, search.png and results.json there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare strategies of the search on a test-bed: the gap above published recipes that each closes.

    Runs no model. Every strategy gets the same number of evaluations of an example; figures are on examples that no
    strategy sees. The test-bed comes from: autotc bench testbed
    """
    from autotc.search.strategies import NAMES, check_name
    from autotc.testbed import command, page

    for name in strategy or ():
        check_name(name)
    names = list(dict.fromkeys(strategy)) if strategy else [n for n in NAMES if n not in command.SLOW]
    found = command.compare(command.loader(bed, model), names, seeds, evaluations, workers, say)
    if out is not None:
        command.write(found, out)
        say(f"wrote {out / 'README.md'}, {out / 'search.png'} and {out / 'results.json'}")
    if as_json:
        print_json(found)
    else:
        typer.echo(page.table(found), nl=False)
