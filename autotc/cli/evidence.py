"""Commands that say how far autotc's figures can be trusted."""

from __future__ import annotations

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
