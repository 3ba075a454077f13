"""The gap that strategies close, against the evaluations they use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotc.errors import SpecError
from autotc.testbed.ratios import OWN
from autotc.testbed.study import TARGET


def write(found: dict[str, Any], path: Path) -> None:
    """Write the picture as .png.

    Raises:
        SpecError: the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    order = sorted(found["strategies"], key=lambda s: -(s["gap_closed"] or 0.0))
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for i, strategy in enumerate(order):
        own = strategy["strategy"] == OWN
        axes.plot(
            strategy["curve"]["evaluations"],
            strategy["curve"]["gap_closed"],
            color="#111111" if own else colours[i % len(colours)],
            linewidth=2.6 if own else 1.4,
            linestyle=("-", "--", ":")[i // len(colours) % 3] if own else ("-", "--")[i % 2],
            label=f"{strategy['strategy']}  {strategy['gap_closed'] or 0.0:.2f}",
            zorder=4 if own else 3,
        )
    axes.axhline(TARGET, color="#888888", linewidth=0.8, linestyle=":", zorder=1)
    axes.text(0, TARGET, "target ", ha="right", va="center", fontsize=8, color="#666666", clip_on=False)
    axes.axhline(0, color="#888888", linewidth=0.8, zorder=1)
    axes.set_xlim(0, found["evaluations"])
    axes.set_xlabel("evaluations of an example")
    axes.set_ylabel("gap closed, held-out\n(0: published recipes, 1: best known)")
    state = "" if found["complete"] else "  (test-bed incomplete)"
    axes.set_title(f"Search strategies, mean of {found['seeds']} seeds{state}", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#EEEEEE", zorder=0)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, title="at the end")
    try:
        figure.savefig(path)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from error
