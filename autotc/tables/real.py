"""What `autotc calibrate` found, as a table and a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from autotc.tables.console import console, figure, grid, percent

if TYPE_CHECKING:
    from autotc.calibrating import Calibration
    from autotc.store import AnchorRow


def calibration(found: Calibration) -> None:
    """Print the anchors by budget, best first, and the verdict."""
    metric = found.metric
    table = grid(
        "anchor",
        "budget",
        "TFLOP exact",
        f"{metric} on the model",
        "rank",
        "accuracy on the proxy",
        "rank",
        "policy",
        left=("anchor", "policy"),
    )
    good = [a for a in found.anchors if a.numbers]
    ranks = [_ranks([a.numbers[i].value for a in good]) for i in (0, 1)]
    for i in sorted(range(len(good)), key=lambda i: (-good[i].share, ranks[0][i])):
        a = good[i]
        table.add_row(
            escape(a.label),
            f"{a.share:.0%}",
            figure(a.costs["tflops_exact"]),
            percent(a.numbers[0]),
            str(ranks[0][i]),
            percent(a.numbers[1]),
            str(ranks[1][i]),
            escape(a.policy.describe()),
        )
    console.print(table)
    for a in found.anchors:
        if a.reason:
            console.print(f"[dim]left out: {escape(_left_out(a))}[/]")
    if good:
        n = [x.n for x in good[0].numbers]
        console.print(
            f"[dim]budget: exact cost of random tokens behind the projector at this share; ± one standard error, "
            f"clustered by image; {n[0]} examples of the selection split on {escape(found.row.model)}, {n[1]} built-in "
            f"scenes on {escape(found.row.proxy)}[/]"
        )
    it = found.agreement
    console.print(
        f"\nSpearman's rho: {it.overall.text} over all anchors, {it.equal_cost.text} at equal cost (95 % intervals, "
        "anchors and images drawn again)"
    )
    console.print(f"[bold]{escape(it.verdict)}.[/]")


def _ranks(values: list[float]) -> list[int]:
    """Return ranks from 1 for the highest; equal values share the better one."""
    return [1 + sum(other > value for other in values) for value in values]


def _left_out(anchor: AnchorRow) -> str:
    return f"{anchor.label} at {anchor.share:.0%}: {anchor.reason}"
