"""Published and proxy retention side by side: a row a method, a panel a proxy and budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autotc.calibration.methods import BASELINES
from autotc.calibration.published import BUDGETS, NAMES
from autotc.charts import COLOURS
from autotc.errors import SpecError

PUBLISHED, PROXY = COLOURS["reference"], COLOURS["front"]


def write(study: dict[str, Any], path: Path) -> None:
    """Write the picture as .png.

    Raises:
        SpecError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    orders = {name: order(found) for name, found in study["proxies"].items()}
    rows = [max(1, len(names)) for names in orders.values()]
    figure = Figure(figsize=(12, 1.2 + 0.3 * sum(rows) + 0.9 * len(rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(BUDGETS), squeeze=False, height_ratios=rows)
    for line, (name, found) in zip(grid, study["proxies"].items(), strict=True):
        for axes, budget in zip(line, BUDGETS, strict=True):
            _panel(axes, found, budget, orders[name])
            if axes is line[0]:
                axes.set_yticks(range(len(orders[name])), orders[name], fontsize=8.5)
                for label in axes.get_yticklabels():
                    label.set_fontweight("bold" if label.get_text() in BASELINES else "normal")
            else:
                axes.set_yticks(range(len(orders[name])), [""] * len(orders[name]))
    figure.suptitle(
        "What methods retain: published for real models, and on the proxies",
        fontsize=13,
        fontweight="bold",
        x=0.008,
        ha="left",
    )
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    try:
        figure.savefig(path)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from error


def published(found: dict[str, Any], method: str, budget: float) -> list[float]:
    """Return what independent rows of the proxy's family print for a method at a budget, in %."""
    rows = found["family_tables"]["published"]
    return [row["published"] for row in rows if (row["method"], row["budget"]) == (method, budget)]


def order(found: dict[str, Any]) -> list[str]:
    """Return the methods that anybody has printed for the family, by their mean published retention."""
    means = {}
    for method in dict.fromkeys(r["method"] for r in found["retention"]):
        theirs = [v for b in BUDGETS for v in published(found, method, b)]
        if theirs:
            means[method] = float(np.mean(theirs))
    return sorted(means, key=lambda name: -means[name])


def _panel(axes: Any, found: dict[str, Any], budget: float, names: list[str]) -> None:
    mine = {r["method"]: r for r in found["retention"] if r["budget"] == budget}
    for row, name in enumerate(names):
        theirs, own = published(found, name, budget), mine[name]
        if theirs:
            x = float(np.mean(theirs))
            axes.plot([x, own["value"]], [row, row], color="#D9D9D9", lw=1, zorder=1)
            if len(theirs) > 1:
                axes.plot([min(theirs), max(theirs)], [row - 0.13] * 2, color=PUBLISHED, lw=1.2, zorder=2)
            axes.plot(theirs, [row - 0.13] * len(theirs), "|", color=PUBLISHED, ms=6, zorder=2)
            axes.plot(x, row - 0.13, "D", color=PUBLISHED, ms=4.5, zorder=3)
        axes.errorbar(
            own["value"],
            row + 0.13,
            xerr=[[own["value"] - own["low"]], [own["high"] - own["value"]]],
            fmt="o",
            ms=4.5,
            color=PROXY,
            elinewidth=1,
            zorder=3,
        )
    axes.plot([], [], "D", color=PUBLISHED, ms=5, label="published: mean of the sources, a stroke each")
    axes.plot([], [], "o", color=PROXY, ms=5, label="proxy, 95 % interval")
    axes.set_xlim(15, 104)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title(f"{found['proxy']}, {NAMES[budget]} of the tokens", loc="left", fontsize=9.5)
    axes.set_xlabel("retention, % of the uncompressed model's score", fontsize=8.5)
    axes.grid(axis="x", color="#E9E9E9", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
