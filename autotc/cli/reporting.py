"""`report`: a study as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotc.cli.options import Best, Json, OtherConvention, OtherLimit, Storage, StudyName, print_json, say
from autotc.cli.searching import _latest
from autotc.constraints import BEST

REPORT_EXAMPLES = """**Examples**

`autotc report -o report.html` -- the latest study of this folder's database

`autotc report qwen2.5-vl-1f0c6e2a --max-tflops 500 --best cheapest -o report.html` -- another limit, from stored trials
"""


def report(
    study: StudyName = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the page goes.")] = Path(
        "report.html"
    ),
    max_tflops: OtherLimit = None,
    flops_convention: OtherConvention = None,
    best: Best = BEST,
    constraint: Annotated[
        list[str] | None,
        typer.Option("--constraint", help="What the recommended policy has to meet (as export; repeatable)."),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write a study as one self-contained HTML page; nothing is run, and the page loads nothing.

    The recommended policy and its price, the front, the policy through the model, what is lost, cost by part, claims,
    references, how far the numbers can be trusted, and how to reproduce and use it. It opens without a network, in
    light and dark, on paper and on a phone.
    """
    from autotc.export import write_text
    from autotc.report import read, render
    from autotc.store import Store

    store = Store(storage)
    found = read(store, _latest(store, study), max_tflops, flops_convention, best, constraint or ())
    page = render(found)
    write_text(output, page)
    why = found.recommendation
    if as_json:
        said = {"file": str(output), "study": found.study.name, "bytes": len(page.encode())}
        chosen = {"recommendation": None if why is None else why.as_dict()}
        seen = found.view.optimism
        print_json(
            {
                **said,
                **chosen,
                "optimism": None if seen is None else seen.as_dict(),
                "prices": [price.as_dict() for price in found.prices],
            }
        )
        return
    say(f"wrote {output} ({len(page.encode()) / 1e6:.2f} MB)")
    typer.echo(why.text if why else "No finished trial is within the limit, so the page recommends nothing.")
