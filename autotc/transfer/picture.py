"""Rank correlations with their intervals, two twins against each other, and what depth does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autotc.charts.dots import SHADES
from autotc.errors import SpecError
from autotc.transfer import LEAST
from autotc.transfer.study import FAMILIES, Table, groups


def write(study: dict[str, Any], found: Table, path: Path) -> None:
    """Write the picture as .png.

    Raises:
        SpecError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1.35, 1, 1]})
    _correlations(left, study)
    _twins(middle, found)
    _depth(right, study)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#EEEEEE", zorder=0)
    try:
        figure.savefig(path)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from error


def _correlations(axes: Any, study: dict[str, Any]) -> None:
    names = list(study["groups"])
    for row, name in enumerate(reversed(names)):
        group = study["groups"][name]
        for shift, kind, filled, label in (
            (0.12, "equal_cost", True, "equal cost"),
            (-0.12, "all_costs", False, "all costs"),
        ):
            value, (low, high) = group[kind]["value"], group[kind]["interval"]
            axes.errorbar(
                value,
                row + shift,
                xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                fmt="o",
                ms=5.5,
                color=SHADES[0] if filled else "#888888",
                mfc=SHADES[0] if filled else "white",
                elinewidth=1,
                zorder=3,
                label=label if row == 0 else None,
            )
    axes.axvline(LEAST, color=SHADES[1], lw=1.2, ls="--", zorder=1)
    axes.text(LEAST, len(names) - 0.42, f" {LEAST}: least for a claim", fontsize=8, color="#555555")
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=9)
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.02)
    axes.set_xlabel("Spearman's rank correlation, 95 % interval", fontsize=9)
    axes.set_title(f"How alike models order {study['policies']} policies", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower left")


def _twins(axes: Any, found: Table) -> None:
    pairs = groups(found.models)
    a, b = next(iter(pairs.values()))[0]  # twins, where there are any
    for shade, share in zip(SHADES * 2, sorted(set(found.strata.tolist()), reverse=True), strict=False):
        mine = found.strata == share
        axes.plot(
            100 * found.right[a][mine].mean(1),
            100 * found.right[b][mine].mean(1),
            "o",
            ms=3.6,
            alpha=0.8,
            color=shade if share > 0.08 else "#333333",
            label=f"{share:.0%} of the tokens",
            zorder=3,
        )
    axes.set_xlabel(f"accuracy on {found.models[a].model}, %", fontsize=9)
    axes.set_ylabel(f"accuracy on {found.models[b].model}, %", fontsize=9)
    axes.set_title("Two models, one dot a policy", loc="left", fontsize=10)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.32 * (high - low))  # room for the legend
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")


def _depth(axes: Any, study: dict[str, Any]) -> None:
    for model in study["depth"]["models"]:
        family = next(f for f in FAMILIES if model["model"].startswith(f))
        shade = SHADES[list(FAMILIES).index(family)]
        losses = np.array(model["withdrawal"])
        place = 100 * np.arange(1, model["layers"]) / model["layers"]
        style = "-" if "-small" in model["model"] else "--"
        axes.plot(
            place,
            losses,
            style,
            marker="o",
            ms=3,
            lw=1.3,
            color=shade,
            alpha=0.85,
            zorder=3,
            label=model["model"],
        )
    axes.set_xlabel("layers before, % of the language model", fontsize=9)
    axes.set_ylabel("KL when all visual tokens leave there, nats", fontsize=9)
    axes.set_title("What depth does", loc="left", fontsize=10)
    if study["depth"]["models"]:
        axes.legend(fontsize=7.5, frameon=False, loc="upper right")
