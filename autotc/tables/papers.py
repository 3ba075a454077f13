"""The catalogue of published systems: `list papers`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from autotc.catalogue import STATUSES, Paper, counts, papers, unlisted
from autotc.tables.console import console


def print_papers(found: Sequence[Paper]) -> None:
    """Print systems by status, and a summary at the end, where a long table is read from."""
    for status in counts(found):
        console.print(f"\n[bold]{status}[/]  [dim]{STATUSES[status]}[/]")
        table = Table(box=None, pad_edge=False, show_header=False, expand=True, padding=(0, 2, 0, 0))
        table.add_column(ratio=11, overflow="fold")
        table.add_column(width=10, style="dim")
        table.add_column(ratio=9, overflow="fold")
        for paper in sorted((p for p in found if p.status == status), key=lambda p: p.title.casefold()):
            table.add_row(escape(paper.title), paper.arxiv or "-", escape(paper.answer))
        console.print(table)
    console.print(f"\n{summary(found)}")
    if len(found) == len(papers()):
        console.print(f"[dim]{outside()}[/]")
    console.print(
        "[dim]Narrow it: --status planned, --match video. As a page: --markdown. As data: --json.[/]"
    )


def summary(found: Sequence[Paper]) -> str:
    """Return one sentence with the counts by status."""
    shown = ", ".join(f"{n} {status}" for status, n in counts(found).items())
    whole = len(papers())
    of = f"{whole} published systems" if len(found) == whole else f"{len(found)} of {whole} published systems"
    return f"{of}: {shown}." if shown else f"{of}."


def outside() -> str:
    """Return one sentence on the reducers that stand for no system of the catalogue."""
    unpublished = [cls for cls in unlisted() if cls.source.arxiv is None]
    own = [cls.name for cls in unpublished if cls.crossed]
    baselines = [cls.name for cls in unpublished if not cls.crossed]
    other = [f"{cls.name} (arXiv {cls.source.arxiv})" for cls in unlisted() if cls.source.arxiv]
    text = f"Reducers beside these: {', '.join(baselines)} (baselines), {', '.join(own)} (own)"
    return f"{text}; {', '.join(other)}, whose papers the catalogue does not have." if other else f"{text}."
