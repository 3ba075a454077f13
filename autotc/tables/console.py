"""Where everything is printed, and how figures are written."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from autotc.metrics import Metric
from autotc.policy import Number

console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 160)


def grid(*columns: str, left: tuple[str, ...] = ()) -> Table:
    """Return an empty table; columns are flush right, those in `left` flush left and folded."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if name in left else "right", overflow="fold")
    return table


def percent(number: Number | None) -> str:
    """Write a share as '93.1 ± 0.8 %'; a dash where it was not measured."""
    if number is None:
        return "-"
    error = "" if number.stderr is None else f" ± {100 * number.stderr:.1f}"
    return f"{100 * number.value:.1f}{error} %"


def written(metric: Metric, number: Number | None) -> str:
    """Write a figure or a cost; a dash where there is none."""
    if metric.share or number is None:
        return percent(number)
    error = "" if number.stderr is None else f" ± {number.stderr:.2g}"
    return f"{figure(number.value)}{error}"


def figure(value: float) -> str:
    """Write a cost with as many decimals as its size deserves."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
