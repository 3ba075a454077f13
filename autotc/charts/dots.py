"""Methods as rows of dots with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotc.errors import SpecError

SHADES = ("#0072B2", "#E69F00", "#CC79A7", "#009E73")


@dataclass(frozen=True)
class Dots:
    """One value of a row: its series, the value, its standard error, and whether to draw it solid."""

    series: str
    value: float
    stderr: float | None
    solid: bool = True


@dataclass(frozen=True)
class DotChart:
    """Rows of dots with 95 % intervals, one row a method, one colour a series, one panel a model.

    Args:
        title: of the whole.
        value_name: under the axes.
        panels: title, rows in order from the top, and (name, value) of a level to draw.
        baselines: rows whose names are set off.
        hollow: what a hollow dot means.
    """

    title: str
    value_name: str
    panels: Sequence[tuple[str, Mapping[str, Sequence[Dots]], tuple[str, float]]]
    baselines: Sequence[str] = ()
    hollow: str = ""

    def write(self, path: Path) -> None:
        """Write the picture as .png.

        Raises:
            SpecError: the file cannot be written.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        tall = 1.6 + 0.19 * max(len(rows) for _, rows, _ in self.panels)
        figure = Figure(figsize=(6.2 * len(self.panels), tall), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (title, rows, level) in zip(
            figure.subplots(1, len(self.panels), squeeze=False)[0], self.panels, strict=True
        ):
            self._panel(axes, title, rows, level)
        figure.suptitle(self.title, fontsize=13, fontweight="bold", x=0.01, ha="left")
        try:
            figure.savefig(path)
        except OSError as error:
            raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from error

    def _panel(
        self, axes: Any, title: str, rows: Mapping[str, Sequence[Dots]], level: tuple[str, float]
    ) -> None:
        names = list(rows)
        series = list(dict.fromkeys(dot.series for dots in rows.values() for dot in dots))
        for row, dots in enumerate(rows.values()):
            for dot in dots:
                axes.errorbar(
                    dot.value,
                    row,
                    xerr=None if dot.stderr is None else 1.96 * dot.stderr,
                    fmt="o",
                    ms=4.5,
                    color=SHADES[series.index(dot.series) % len(SHADES)],
                    markerfacecolor=None if dot.solid else "white",
                    elinewidth=0.8,
                    zorder=3,
                )
        for i, name in enumerate(series):
            axes.plot([], [], "o", ms=5, color=SHADES[i % len(SHADES)], label=name)
        if not all(dot.solid for dots in rows.values() for dot in dots):
            axes.plot([], [], "o", ms=5, mfc="white", mec="#555555", label=self.hollow)
        axes.axvline(level[1], color="#555555", lw=1, ls="--", label=f"{level[0]}: {100 * level[1]:.1f} %")
        axes.set_yticks(range(len(names)), names, fontsize=8)
        for label in axes.get_yticklabels():
            if label.get_text() in self.baselines:
                label.set_fontweight("bold")
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(f"{self.value_name}, 95 % interval", fontsize=9)
        axes.set_title(title, loc="left", fontsize=9.5)
        axes.grid(axis="x", color="#E4E4E4", zorder=0)
        axes.grid(axis="y", color="#F3F3F3", zorder=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
