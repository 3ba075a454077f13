"""Commands that say how far autotc's figures can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotc.cli.options import Json, print_json, say


def bench_statistics(
    runs: Annotated[int, typer.Option("--runs", min=100, help="Simulated data sets a row.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Of the simulation.")] = 0,
    as_json: Json = False,
) -> None:
    """Check intervals by simulation: how often do they hold the truth when questions share images?"""
    from autotc import statistics_bench

    result = statistics_bench.run(runs, seed, each=say)
    if as_json:
        print_json(result)
        return
    for row in result["coverage"]:
        typer.echo(
            f"{row['what']:<10} n={row['n']:<5} images={row['images']:<6.0f} quality={row['quality']:<5} "
            f"shared={row['shared']:<4} coverage {100 * row['coverage']:.1f} ± {100 * row['stderr']:.1f} %"
        )


def bench_calibrate(
    proxies: Annotated[
        list[str] | None, typer.Option("--proxy", help="Only this one; may be given several times.")
    ] = None,
    examples: Annotated[int, typer.Option("--examples", min=2, help="Scenes a policy; see the page.")] = 256,
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
            command.measure(
                proxy, examples, out, None, lambda i, n, label, proxy=proxy: say(f"{proxy} {i}/{n}: {label}")
            )
    result = command.analyse(out)
    if as_json:
        print_json(result)
        return
    for found in result["proxies"].values():
        typer.echo(found["text"])
    typer.echo(f"Page: {out / 'README.md'}\nPicture: {out / 'retention.png'}")
