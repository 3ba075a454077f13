"""The command line: every command checks its words, calls the library and prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from autotc import __version__
from autotc.errors import AutotcError, SpecError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Search, evaluate and apply visual-token compression policies of vision-language models.\n\n"
    "**Start:** `autotc search --model qwen2.5-vl --max-tflops 800`, then `autotc front`, then `autotc export`.",
)
db = typer.Typer(no_args_is_help=True, help="Look after the database.")
bench = typer.Typer(no_args_is_help=True, help="Measure autotc itself; timings are ratios taken in one run.")
app.add_typer(db, name="db")
app.add_typer(bench, name="bench")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage", help="Database URL; default AUTOTC_STORAGE or sqlite:///autotc.db in this folder."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", help="An alias (see: autotc list models), a Hugging Face id, or a folder with config.json."
    ),
]
WorkloadOption = Annotated[
    str,
    typer.Option(
        "--workload", help="A profile (vqa, chat, document, multi-image) or images=1,resolution=672x672,..."
    ),
]
PolicyFile = Annotated[Path, typer.Option("--policy", help="A policy document.")]
StudyName = Annotated[str | None, typer.Argument(help="Study name; default: the only, or the latest, study.")]


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


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _latest(store: Any, study: str | None) -> str:
    if study is not None:
        return study
    rows = store.studies()
    if not rows:
        raise SpecError(
            f"{store.url_shown} holds no study yet. Start one: autotc search --model qwen2.5-vl --max-tflops 800"
        )
    return str(max(rows, key=lambda row: row.created).name)


@app.command()
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
    from autotc import tables
    from autotc.adapter import resolve_model
    from autotc.cost import estimate, estimate_tokens
    from autotc.policy import load_policy
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
        _print_json({"model": anatomy.id, "workload": load.describe(), **found.as_dict()})
    else:
        tables.cost(anatomy, load, document, found)


@app.command(name="list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="reducers, presets, models, workloads, studies or schema (the policy's JSON Schema)."
        ),
    ],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """List what there is: reducers, presets, models, workloads, studies, or the policy schema."""
    from autotc import tables

    rows = tables.listing(what, storage)
    if as_json or what == "schema":
        _print_json(rows)
    else:
        tables.print_listing(what, rows)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A reducer (fastv), or a trial number when --study is given.")],
    study: Annotated[str | None, typer.Option("--study", help="Show a trial of this study.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show one reducer (source, parameters, departures, presets) or one trial of a study."""
    from autotc import tables

    facts = tables.trial_facts(name, study, storage) if study else tables.reducer_facts(name)
    if as_json:
        _print_json(facts)
    else:
        tables.print_facts(facts)


SEARCH_EXAMPLES = """**Examples**

`autotc search --model qwen2.5-vl --max-tflops 800` -- the proxy that ships, built-in scenes

`autotc search --model /models/Qwen2.5-VL-7B-Instruct --data my.jsonl --max-tflops 800` -- your weights, your data

`autotc search --model qwen2-vl-7b --max-tflops 833 --reducer fastv --reducer divprune --trials 200`
"""


@app.command(epilog=SEARCH_EXAMPLES)
def search(
    model: Model,
    max_tflops: Annotated[
        float | None, typer.Option("--max-tflops", help="At most this many TFLOP per 1,000 requests.")
    ] = None,
    flops_convention: Annotated[
        str | None,
        typer.Option(
            "--flops-convention", help="literature (the papers' count, default) or exact (what is executed)."
        ),
    ] = None,
    max_memory_gib: Annotated[
        float | None, typer.Option("--max-memory-gib", help="At most this peak memory (estimated here).")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload",
            help="vqa (default), chat, document, multi-image, or images=1,resolution=672x672,...",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Your JSONL (image, question, optional answer); default: built-in scenes."
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave unreadable images out and count them.")
    ] = False,
    examples: Annotated[
        int | None, typer.Option("--examples", help="Examples a trial is measured on (256).")
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="Trials in total, those stored included.")
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds for the whole run.")] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="tpe (default), nsga2, gp or random.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy", help="default (starts from presets, stops losers early) or plain (sampler alone)."
        ),
    ] = None,
    all_presets: Annotated[
        bool, typer.Option("--all-presets", help="Compare with every published preset.")
    ] = False,
    reducer: Annotated[
        list[str] | None, typer.Option("--reducer", help="Search over this reducer only (repeatable).")
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", help="Name; default: model and fingerprint of the search.")
    ] = None,
    storage: Storage = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="One worker and one seed repeat a search.")
    ] = None,
    evaluate_on: Annotated[
        str | None,
        typer.Option(
            "--evaluate-on",
            help="full (real weights), proxy (the small model that ships), or auto (default).",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes that search together.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Allow fetching a checkpoint from the hub.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    as_json: Json = False,
) -> None:
    """Search for policies within a budget; the same command goes on where it stopped."""
    from autotc import running

    given = {name: value for name, value in locals().items() if name in running.OPTIONS}
    result = running.search({**given, "reducers": reducer}, quiet=as_json)
    if as_json:
        _print_json(result.as_dict())
    else:
        running.print_result(result, storage, profile)
    if result.state == "interrupted":
        raise typer.Exit(130)


@app.command()
def front(
    study: StudyName = None,
    max_tflops: Annotated[
        float | None, typer.Option("--max-tflops", help="Another limit: answered from stored trials.")
    ] = None,
    flops_convention: Annotated[
        str | None, typer.Option("--flops-convention", help="literature or exact; default: the study's.")
    ] = None,
    with_references: Annotated[
        bool, typer.Option("--with-references", help="References and presets too.")
    ] = False,
    plot: Annotated[
        list[Path] | None,
        typer.Option("--plot", help="Write the picture to FILE.html or FILE.png (repeatable)."),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Print the Pareto front of a study; nothing is run."""
    from autotc import tables
    from autotc.store import Store

    store = Store(storage)
    view = tables.FrontView.read(store, _latest(store, study), max_tflops, flops_convention)
    for path in plot or ():
        view.chart().write(path)
        _say(f"wrote {path}")
    if as_json:
        _print_json([m.as_dict() for m in (*view.front, *(view.references if with_references else ()))])
    else:
        view.print()


@app.command()
def export(
    study: StudyName = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the policy goes.")] = Path(
        "policy.json"
    ),
    best: Annotated[
        str, typer.Option("--best", help="quality, knee, or cheapest (within noise of the best).")
    ] = "quality",
    trial: Annotated[int | None, typer.Option("--trial", help="This trial instead.")] = None,
    max_tflops: Annotated[float | None, typer.Option("--max-tflops", help="Another limit.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write one policy of a study as JSON, with what was measured and how to use it."""
    from autotc import tables
    from autotc.export import write_text
    from autotc.store import Store

    store = Store(storage)
    view = tables.FrontView.read(store, _latest(store, study), max_tflops, None)
    document = view.policy(best, trial)
    write_text(output, document.json_text())
    if as_json:
        _print_json({"file": str(output), "id": document.id, "trial": document.provenance["trial"]})
    else:
        tables.exported(output, document)


@app.command(name="eval")
def eval_(
    model: Annotated[
        str, typer.Option("--model", help="A folder with weights, or an alias (then its proxy is used).")
    ],
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A policy document; default: uncompressed.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="JSONL; default: the built-in scenes.")] = None,
    examples: Annotated[int, typer.Option("--examples", min=2, help="Examples measured.")] = 256,
    split: Annotated[str, typer.Option("--split", help="search, selection or held-out.")] = "held-out",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave unreadable images out and count them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure a policy on data: task score, worst group, agreement with the uncompressed model."""
    from autotc import tables
    from autotc.policy import load_policy
    from autotc.running import make_task
    from autotc.verify import measure

    task = make_task(str(data) if data else None, skip_bad)
    measured = measure(model, load_policy(policy) if policy else None, task, split, examples)
    if as_json:
        _print_json(measured.as_dict())
    else:
        tables.measurement(measured)


@app.command()
def verify(
    policy: Annotated[Path, typer.Argument(help="The policy document.")],
    model: Annotated[str, typer.Option("--model", help="The folder with the real weights.")],
    data: Annotated[Path, typer.Option("--data", help="Your own JSONL.")],
    examples: Annotated[int, typer.Option("--examples", min=2, help="Examples measured.")] = 512,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0.0, max=1.0, help="Largest accepted loss of quality.")
    ] = 0.02,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave unreadable images out and count them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure a policy on the real weights and your data; mark it verified when it loses no more than --max-drop."""
    from autotc import tables
    from autotc.running import make_task
    from autotc.verify import verify as run

    result = run(policy, model, make_task(str(data), skip_bad), examples, max_drop)
    if as_json:
        _print_json(result.as_dict())
    else:
        tables.verdict(result)
    if not result.passed:
        raise typer.Exit(1)


@db.command()
def upgrade(storage: Storage = None) -> None:
    """Bring the database to this version's schema."""
    from autotc.store import Store

    store = Store(storage, check=False)
    store.upgrade()
    typer.echo(f"{store.url_shown}: schema is up to date")


@db.command()
def check(storage: Storage = None) -> None:
    """Say whether the database fits this version, and what to do if not."""
    from autotc.store import Store

    store = Store(storage, check=False)
    store.check()
    typer.echo(f"{store.url_shown}: fits autotc {__version__}")


@bench.command(name="evaluate")
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
    from autotc import running, tables

    result = running.bench_evaluate(model, max_tflops, policies, examples)
    if as_json:
        _print_json(result)
    else:
        tables.bench(result)
