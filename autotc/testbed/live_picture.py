"""Real searches of several strategies: how they grow, and the fronts they end with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autotc.errors import SpecError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def write(found: dict[str, Any], path: Path) -> None:
    """Write the picture as .png.

    Args:
        found: from `autotc.live_bench.bench_live`.
        path: the file.

    Raises:
        SpecError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = [s["strategy"] for s in found["strategies"]]
    for name, colour in zip(names, COLOURS * len(names), strict=False):
        rows = [r for r in found["rows"] if r["strategy"] == name]
        for row in rows:
            used, area = np.array(row["curve"]).T
            left.step(used, area, where="post", color=colour, linewidth=0.8, alpha=0.45)
        grid = np.linspace(0, min(r["curve"][-1][0] for r in rows), 200)
        left.plot(grid, _mean_curve(rows, grid), color=colour, linewidth=2.4, label=name)
        for i, row in enumerate(rows):
            cost, quality = np.array(row["points"]).T
            end = max(row["limits"].values())
            right.step(
                np.append(cost, end),
                100 * np.append(quality, quality[-1]),
                where="post",
                color=colour,
                linewidth=1.4,
                alpha=0.8,
                label=name if i == 0 else None,
            )
            right.plot(cost, 100 * quality, "o", color=colour, markersize=3, alpha=0.8)
    limits = found["rows"][0]["limits"]
    for cost in limits.values():
        right.axvline(cost, color="#888888", linewidth=0.8, linestyle=":", zorder=1)
    left.set_xlabel("evaluations of a search example")
    left.set_ylabel("area under quality, search examples")
    left.set_title(f"{found['seeds']} searches each, thick: mean", loc="left", fontsize=11)
    right.set_xlabel("TFLOP per 1,000 requests (exact)")
    right.set_ylabel("accuracy on held-out examples, %")
    tokens = ", ".join(reversed(limits))
    right.set_title(f"What one would pick (dotted: cost of {tokens} tokens)", loc="left", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#EEEEEE", zorder=0)
        axes.legend(frameon=False, loc="lower center", fontsize=9)
    try:
        figure.savefig(path)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from error


def _mean_curve(rows: list[dict[str, Any]], grid: np.ndarray) -> np.ndarray:
    """Return the mean over searches of the area after so many evaluations."""
    curves = []
    for row in rows:
        used, area = np.array(row["curve"]).T
        curves.append(area[np.maximum(np.searchsorted(used, grid, side="right") - 1, 0)])
    return np.asarray(np.mean(curves, axis=0))
