"""`search`, `front` and `export`: from a budget to a policy."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotc.cli.options import (
    Best,
    Json,
    Model,
    OtherConvention,
    OtherLimit,
    SkipBad,
    Storage,
    StudyName,
    print_json,
    say,
)
from autotc.constraints import BEST
from autotc.errors import SpecError

if TYPE_CHECKING:
    from autotc.search.result import Result

PICTURES_S = 30.0  # no other policy is drawn after a search when so long has passed
SEARCH_EXAMPLES = """**Examples**

`autotc search --model qwen2.5-vl --max-tflops 800` -- the proxy that ships, built-in scenes

`autotc search --model /models/Qwen2.5-VL-7B-Instruct --data my.jsonl --max-tflops 800` -- your weights, your data

`autotc search --model qwen2-vl-7b --max-tflops 833 --reducer fastv --reducer divprune --trials 200`

`autotc search --executor ray --workers 16 --storage postgresql://USER@HOST/autotc --model qwen2.5-vl` -- a Ray cluster
"""


CONSTRAINT_HELP = (
    "NAME <= NUMBER or NAME >= NUMBER (repeatable). On a cost (kv_gib, tflops_exact, ...) a limit of every trial; on a "
    "figure (quality, worst_group_drop, ...) of what is recommended. Default: 'worst_group_drop <= 0.05'."
)

OBJECTIVE_HELP = (
    "What to search for, two to four of them (repeatable): figures (quality, worst_group, next_question, agreement, "
    "...) and costs (tflops_exact, kv_gib, memory_gib, latency_ms, ...). Default: quality and tflops_exact."
)


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
    objective: Annotated[list[str] | None, typer.Option("--objective", help=OBJECTIVE_HELP)] = None,
    constraint: Annotated[list[str] | None, typer.Option("--constraint", help=CONSTRAINT_HELP)] = None,
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
    skip_bad: SkipBad = False,
    examples: Annotated[
        int | None, typer.Option("--examples", help="Examples a trial is measured on (256).")
    ] = None,
    selection_examples: Annotated[
        int | None,
        typer.Option("--selection-examples", help="Other examples, on which the front is confirmed (256)."),
    ] = None,
    heldout_examples: Annotated[
        int | None,
        typer.Option("--heldout-examples", help="Others again, on which claims are made (512)."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="Trials in total, those stored included.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            help="trials (default): until there are --trials; plateau: stop before, once more trials are expected to "
            "bring less than can be measured, after 60 at the earliest and --trials (500) at the latest.",
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds for the whole run.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help="tpe, nsga2, gp or random in place of the own way to propose."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            help="default (starts from presets, stops losers early) or plain (sampler alone); to compare with: random, "
            "sobol, tpe, nsga2, gp, and the published evolution, p-sigmoid, greedy, fitprune, vtw, vflowopt.",
        ),
    ] = None,
    all_presets: Annotated[
        bool, typer.Option("--all-presets", help="Compare with every published preset.")
    ] = False,
    reducer: Annotated[
        list[str] | None, typer.Option("--reducer", help="Search over this reducer only (repeatable).")
    ] = None,
    deploy: Annotated[
        str | None,
        typer.Option(
            "--deploy",
            help="Only what this engine can run: hf (all, default), vllm or openvino. See: autotc list engines",
        ),
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
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            help="Where the workers are: process (this machine, default) or ray (a Ray cluster, one a GPU).",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="Where real weights run: auto (default), cpu, cuda, cuda:1, ... or mps."
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure latency and memory of trials on the GPU (about half a minute each)."
        ),
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Allow fetching a checkpoint from the hub.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    as_json: Json = False,
) -> None:
    """Search for policies within a budget; the same command goes on where it stopped."""
    from autotc import running

    given = {name: value for name, value in locals().items() if name in running.OPTIONS}
    lists = {"reducers": reducer, "constraints": constraint, "objectives": objective}
    with _stoppable():
        result = running.search({**given, **lists}, quiet=as_json)
        if as_json:
            print_json(result.as_dict())
        else:
            running.print_result(result, storage, profile)
        if result.ran:
            _draw(storage, result)
    if result.state == "interrupted":
        raise typer.Exit(130)


def _draw(storage: str | None, result: Result) -> None:
    """Draw what the front keeps, in seconds; whoever stopped the search is told the command instead."""
    from autotc.pictures import command
    from autotc.picturing import of_study
    from autotc.search._patience import Patience

    later = f"Pictures of what policies keep, for the dashboard: {command(result.study, result.on)}"
    if result.state == "interrupted":
        say(later)
        return
    try:
        patiently = Patience(lambda: True, say)
        drawn = patiently(lambda: of_study(storage, result.study, within_s=PICTURES_S))
    except KeyboardInterrupt:
        say(later)
        raise
    if drawn.made:
        say(f"Pictures of what {drawn.made} policies keep: {drawn.folder} (shown by: autotc dashboard)")
    if drawn.left:
        say(f"{drawn.left} policies have no pictures yet. {later}")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C: what was found is stored and shown."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def front(
    study: StudyName = None,
    max_tflops: OtherLimit = None,
    flops_convention: OtherConvention = None,
    with_references: Annotated[
        bool, typer.Option("--with-references", help="References and presets too.")
    ] = False,
    objective: Annotated[
        list[str] | None,
        typer.Option("--objective", help="Front in these metrics instead of the search's own (repeatable)."),
    ] = None,
    plot: Annotated[
        list[Path] | None,
        typer.Option("--plot", help="Write the picture to FILE.html or FILE.png (repeatable)."),
    ] = None,
    x: Annotated[
        str | None, typer.Option("--x", help="Metric across the picture; default: the first cost.")
    ] = None,
    y: Annotated[
        str | None, typer.Option("--y", help="Metric up the picture; default: the first figure.")
    ] = None,
    with_history: Annotated[
        bool,
        typer.Option(
            "--with-history",
            help="With --json: an object of the front and of the volume it covered after each trial.",
        ),
    ] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Print the Pareto front of a study; nothing is run."""
    from autotc.price import prices
    from autotc.store import Store
    from autotc.tables.fronts import FrontView

    store = Store(storage)
    view = FrontView.read(
        store, _latest(store, study), max_tflops, flops_convention, objectives=objective or ()
    )
    for path in plot or ():
        view.chart(x, y).write(path)
        say(f"wrote {path}")
    if as_json:
        found = [view.as_dict(m) for m in (*view.front, *(view.references if with_references else ()))]
        print_json({**view.searched(), "front": found} if with_history else found)
    else:
        view.print(prices(store, view.study, view.within))


def export(
    study: StudyName = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the policy goes.")] = Path(
        "policy.json"
    ),
    best: Best = BEST,
    trial: Annotated[int | None, typer.Option("--trial", help="This trial instead.")] = None,
    max_tflops: Annotated[float | None, typer.Option("--max-tflops", help="Another limit.")] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint",
            help="What the policy has to meet, in the place of the study's own constraints on the same figures "
            "(repeatable); 'worst_group_drop <= 1' lifts the default.",
        ),
    ] = None,
    deploy: Annotated[
        str | None,
        typer.Option(
            "--deploy",
            help="Refuse what this engine cannot run, and say how it is set up: hf, vllm or openvino; default: what "
            "the study was searched for.",
        ),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write one policy of a study as JSON, with what was measured and how to use it.

    It is the best among the members of the front that meet the constraints. Where none meets the default one, the
    nearest is written, with a warning here and in the document; where none meets your own, nothing is written.
    """
    from autotc.export import write_text
    from autotc.store import Store
    from autotc.tables.engines import check_engine, how_to
    from autotc.tables.fronts import FrontView, exported

    store = Store(storage)
    view = FrontView.read(store, _latest(store, study), max_tflops, None, constraint or ())
    document, why = view.policy(best, trial)
    target = deploy or view.deploy
    check_engine(target, document, view.front, view.split)
    how = how_to(target, document)
    write_text(output, document.json_text())
    if not why.recommended:
        say(f"warning: {why.text}")
    if as_json:
        chosen = {"file": str(output), "id": document.id, "trial": document.provenance["trial"]}
        print_json({**chosen, "recommendation": why.as_dict(), "deploy": target, "how_to": how})
    else:
        exported(output, document, why, target, how)


def _latest(store: Any, study: str | None) -> str:
    if study is not None:
        return study
    rows = store.studies()
    if not rows:
        raise SpecError(
            f"{store.url_shown} holds no study yet. Start one: autotc search --model qwen2.5-vl --max-tflops 800"
        )
    return str(max(rows, key=lambda row: row.created).name)
