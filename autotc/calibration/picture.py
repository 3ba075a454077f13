"""Published retention against the proxy's, a panel a proxy and budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autotc.calibration.methods import BASELINES
from autotc.calibration.published import BUDGETS, NAMES
from autotc.charts import COLOURS
from autotc.errors import SpecError


def write(study: dict[str, Any], path: Path) -> None:
    """Write the picture as .png.

    Raises:
        SpecError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    proxies = study["proxies"]
    figure = Figure(figsize=(13.5, 4.9 * len(proxies) + 0.9), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(proxies), len(BUDGETS), squeeze=False)
    for row, found in zip(axes, proxies.values(), strict=True):
        for panel, budget in zip(row, BUDGETS, strict=True):
            _panel(panel, found, budget)
    figure.suptitle(
        "Published retention against the proxy's\n", fontsize=14, fontweight="bold", x=0.008, ha="left"
    )
    figure.text(
        0.008,
        0.968 if len(proxies) > 1 else 0.93,
        "Retention: score in % of the uncompressed model's. Across: mean of the sources on models of the proxy's "
        "family, bar from the lowest to the highest source (hollow: one source). Up: the proxy, 95 % interval. "
        "On the line they are equal.",
        fontsize=8.5,
        color="#555555",
        va="top",
    )
    try:
        figure.savefig(path)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from error


def points(found: dict[str, Any], budget: float) -> list[tuple[str, list[float], dict[str, Any]]]:
    """Return name, published retentions (one a row of a source) and the proxy's figure of each method."""
    out = []
    for mine in found["retention"]:
        if mine["budget"] == budget:
            theirs = [
                m["published"]
                for m in found["family_tables"]["published"]
                if (m["method"], m["budget"]) == (mine["method"], budget)
            ]
            if theirs:
                out.append((mine["method"], theirs, mine))
    return out


def _panel(axes: Any, found: dict[str, Any], budget: float) -> None:
    shown = points(found, budget)
    labels = []
    for name, theirs, mine in shown:
        colour = COLOURS["reference" if name in BASELINES else "front"]
        x, y = float(np.mean(theirs)), mine["value"]
        axes.errorbar(
            x,
            y,
            xerr=[[x - min(theirs)], [max(theirs) - x]] if len(theirs) > 1 else None,
            yerr=[[y - mine["low"]], [mine["high"] - y]],
            fmt="o",
            ms=5.5,
            color=colour,
            mfc=colour if len(theirs) > 1 else "white",
            elinewidth=0.8,
            zorder=3,
        )
        labels.append((x, y, name, colour))
    edges = [v for _, theirs, mine in shown for v in (*theirs, mine["low"], mine["high"])] or [50, 100]
    low, high = min(edges) - 2, max(102, max(edges) + 1)
    axes.plot([low, high], [low, high], color="#888888", lw=1, ls="--", zorder=1)
    axes.set_xlim(min(min(min(t) for _, t, _ in shown) - 2, 98) if shown else low, 102)
    axes.set_ylim(low, high)
    _label(axes, labels)
    axes.set_title(f"{found['proxy']}, {NAMES[budget]} of the tokens", loc="left", fontsize=10)
    axes.set_xlabel("published retention, %", fontsize=9)
    axes.set_ylabel("proxy retention, %", fontsize=9)
    axes.grid(color="#EEEEEE", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Any, labels: list[tuple[float, float, str, str]]) -> None:
    """Write names beside their points, moved down where they would collide."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    gap, width = (high - low) / 30, (right - left) / 4
    placed: list[tuple[float, float]] = []
    for x, y, name, colour in sorted(labels, key=lambda item: -item[1]):
        at = y
        while any(abs(x - a) < width and abs(at - b) < gap for a, b in placed):
            at -= gap / 4
        placed.append((x, at))
        beyond = x > right - width
        axes.annotate(
            name,
            (x, y),
            xytext=(x + (-1 if beyond else 1) * (right - left) / 60, at),
            ha="right" if beyond else "left",
            va="center",
            fontsize=7.5,
            color=colour,
        )
