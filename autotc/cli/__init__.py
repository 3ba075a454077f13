"""The command line: every command checks its words, calls the library and prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from autotc import __version__
from autotc.cli import (
    benching,
    dashboard,
    database,
    evidence,
    gpu,
    looking,
    measuring,
    real,
    reporting,
    scaling,
    searching,
    service,
    serving,
)
from autotc.errors import AutotcError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Search, evaluate and apply visual-token compression policies of vision-language models.\n\n"
    "**Start:** `autotc search --model qwen2.5-vl --max-tflops 800`, then `autotc front`, then `autotc export`.",
)
app.command()(measuring.cost)
app.command(name="list", epilog=looking.LIST_EXAMPLES)(looking.list_)
app.command()(looking.show)
app.command(epilog=searching.SEARCH_EXAMPLES)(searching.search)
app.command()(searching.front)
app.command()(searching.export)
app.command(epilog=reporting.REPORT_EXAMPLES)(reporting.report)
app.command(epilog=dashboard.DASHBOARD_EXAMPLES)(dashboard.dashboard)
app.command(epilog=service.SUBMIT_EXAMPLES)(service.submit)
app.command(epilog=service.WORKER_EXAMPLES)(service.worker)
app.command()(service.jobs)
app.command()(service.stop)
app.command(epilog=service.SERVE_EXAMPLES)(service.serve)
app.command(name="eval")(measuring.eval_)
app.command()(measuring.verify)
app.command(epilog=real.CALIBRATE_EXAMPLES)(real.calibrate)
app.command()(real.real)

db = typer.Typer(no_args_is_help=True, help="Look after the database.")
db.command()(database.upgrade)
db.command()(database.check)
app.add_typer(db, name="db")

token = typer.Typer(no_args_is_help=True, help="Bearer tokens for autotc serve.")
token.command(name="create")(service.token_create)
token.command(name="list")(service.token_list)
token.command(name="revoke")(service.token_revoke)
app.add_typer(token, name="token")

bench = typer.Typer(no_args_is_help=True, help="Measure autotc itself; timings are ratios taken in one run.")
bench.command(name="evaluate")(measuring.bench_evaluate)
bench.command(name="methods")(measuring.bench_methods)
bench.command(name="reducers")(measuring.bench_reducers)
bench.command(name="kernels")(gpu.bench_kernels)
bench.command(name="device")(gpu.bench_device)
bench.command(name="apply")(gpu.bench_apply)
bench.command(name="serving")(serving.bench_serving)
bench.command(name="statistics")(evidence.bench_statistics)
bench.command(name="plateau")(evidence.bench_plateau)
bench.command(name="calibrate")(evidence.bench_calibrate)
bench.command(name="transfer")(evidence.bench_transfer)
bench.command(name="testbed")(benching.bench_testbed)
bench.command(name="attention")(benching.bench_attention)
bench.command(name="search")(benching.bench_search)
bench.command(name="live")(benching.bench_live)
bench.command(name="ablation")(benching.bench_ablation)
bench.command(name="store")(scaling.bench_store)
bench.command(name="api")(scaling.bench_api)
bench.command(name="dashboard")(dashboard.bench_dashboard)
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."""
    try:
        app(prog_name="autotc")
    except AutotcError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"autotc {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass
