"""`list` and `show`: what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from autotc.cli.options import Json, Storage, WorkloadOption, print_json
from autotc.errors import SpecError

LIST_EXAMPLES = """**Examples**

`autotc list reducers --match decoder`

`autotc list presets --model llava-1.5-7b --max-tflops 1253.1`

`autotc list papers --status planned --match video` -- also: open, no-specification, needs-training, ...
"""


def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="reducers, presets, models, workloads, papers, engines, kernels, studies or schema (the policy's JSON "
            "Schema)."
        ),
    ],
    match: Annotated[
        str | None, typer.Option("--match", help="Only rows that hold all of these words.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="papers: only those of this status (repeatable).")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="papers, reducers: all of them as a Markdown page.")
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="presets: with their costs on this model.")
    ] = None,
    max_tflops: Annotated[
        float | None,
        typer.Option("--max-tflops", min=0.0, help="presets: scaled to this; default: published counts."),
    ] = None,
    convention: Annotated[
        str, typer.Option("--flops-convention", help="presets: literature or exact.")
    ] = "literature",
    workload: WorkloadOption = "vqa",
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """List what there is: reducers, presets, models, workloads, papers, engines, studies, or the policy schema."""
    from autotc.catalogue import select
    from autotc.tables import lists, pages, papers

    if status and what != "papers":
        raise SpecError("--status: only papers have one; --match filters every list")
    if (model or max_tflops is not None) and what != "presets":
        raise SpecError("--model, --max-tflops: only presets have costs; see also: autotc cost")
    if max_tflops is not None and not model:
        raise SpecError("--max-tflops: presets are scaled on a model; give one with --model")
    if markdown:
        if match or status or as_json:
            raise SpecError("--markdown: writes the whole page; leave --match, --status and --json out")
        typer.echo(pages.page(what), nl=False)
        return
    if what == "papers":
        found = select(status or (), match)
        rows = [paper.as_dict() for paper in found]
    elif model:
        rows = lists.priced_presets(model, max_tflops, convention, workload, match)
    else:
        rows = lists.listing(what, storage, match)
    if as_json or what == "schema":
        print_json(rows)
    elif what == "papers":
        papers.print_papers(found)
    else:
        lists.print_listing(what, rows)


def show(
    name: Annotated[str, typer.Argument(help="A reducer (fastv), or a trial number when --study is given.")],
    study: Annotated[str | None, typer.Option("--study", help="Show a trial of this study.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show one reducer (what it does and needs, its cost, departures, presets, places) or one trial of a study."""
    from autotc.tables import facts, shows

    found = facts.trial_facts(name, study, storage) if study else facts.reducer_facts(name)
    if as_json:
        print_json(found)
    elif study:
        shows.print_trial(found)
    else:
        shows.print_reducer(found)
