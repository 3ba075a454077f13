"""Pictures: a front as one frame of points, drawn by Plotly (HTML) or Matplotlib (PNG); methods as rows of dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autotc.errors import SpecError

Role = Literal["front", "trial", "reference", "preset"]

# Okabe-Ito: distinguishable with every common colour vision
COLOURS: dict[str, str] = {
    "front": "#0072B2",
    "trial": "#B8C4CE",
    "reference": "#D55E00",
    "preset": "#009E73",
}
NAMES = {"front": "front", "trial": "other trials", "reference": "references", "preset": "published presets"}


@dataclass(frozen=True)
class Point:
    """One policy in a picture.

    Args:
        cost: TFLOP per 1,000 requests, exact convention.
        quality: 0..1.
        stderr: standard error of the quality, or None for an estimate.
        role: how it is drawn.
        label: short name written beside references and presets.
        detail: what a reader sees on hovering.
    """

    cost: float
    quality: float
    stderr: float | None
    role: Role
    label: str
    detail: str


@dataclass(frozen=True)
class FrontChart:
    """Quality against cost: the front, what it was chosen from, and what it is compared with."""

    title: str
    subtitle: str
    points: Sequence[Point]
    quality_name: str = "accuracy"
    cost_name: str = "TFLOP per 1,000 requests (exact, estimated)"

    def of(self, role: Role) -> list[Point]:
        """Points of one role that stand on the axes, by cost."""
        near = (p for p in self.points if p.role == role and p not in self.beyond)
        return sorted(near, key=lambda p: p.cost)

    @property
    def beyond(self) -> list[Point]:
        """References so costly that they would press all else together: drawn as levels instead of points."""
        costs = [p.cost for p in self.points if p.role != "reference"]
        return [p for p in self.points if p.role == "reference" and costs and p.cost > 1.3 * max(costs)]

    def write(self, path: Path) -> None:
        """Write the picture as .html or .png.

        Raises:
            SpecError: another suffix, or the file cannot be written.
        """
        if path.suffix not in {".html", ".png"}:
            raise SpecError(f"--plot: {path}: use a name that ends in .html or .png")
        try:
            if path.suffix == ".html":
                self.figure().write_html(path, include_plotlyjs=True)
            else:
                self._write_png(path)
        except OSError as error:
            raise SpecError(f"--plot: {path}: cannot be written: {error.strerror or error}") from error

    def figure(self) -> Any:
        """Return the Plotly figure; bars are 95 % intervals."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for role in ("trial", "preset", "reference", "front"):
            points = self.of(role)
            if not points:
                continue
            figure.add_scatter(
                x=[p.cost for p in points],
                y=[p.quality for p in points],
                error_y=None
                if role == "trial"
                else {"array": [1.96 * (p.stderr or 0) for p in points], "thickness": 1, "width": 3},
                mode="lines+markers" if role == "front" else "markers+text" if role != "trial" else "markers",
                text=[p.label for p in points],
                textposition="middle right",
                hovertext=[p.detail for p in points],
                hoverinfo="text",
                name=NAMES[role],
                line={"shape": "hv", "width": 1.5},
                marker={"size": 6 if role == "trial" else 9, "color": COLOURS[role]},
            )
        for p in self.beyond:
            figure.add_hline(
                y=p.quality,
                line={"dash": "dash", "width": 1, "color": COLOURS["reference"]},
                annotation_text=_level(p),
                annotation_position="top left",
            )
        figure.update_layout(
            title={"text": f"{self.title}<br><sub>{self.subtitle}</sub>"},
            xaxis_title=self.cost_name,
            yaxis_title=self.quality_name,
            template="plotly_white",
            legend={"orientation": "h", "y": -0.2},
        )
        return figure

    def _write_png(self, path: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5.4), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for role in ("trial", "preset", "reference", "front"):
            points = self.of(role)
            if not points:
                continue
            x, y = [p.cost for p in points], [p.quality for p in points]
            if role == "front":
                axes.step(x, y, where="post", color=COLOURS[role], lw=1.4, zorder=4)
            axes.errorbar(
                x,
                y,
                yerr=None if role == "trial" else [1.96 * (p.stderr or 0) for p in points],
                fmt="o",
                ms=3.5 if role == "trial" else 5.5,
                color=COLOURS[role],
                elinewidth=0.9,
                capsize=2,
                label=NAMES[role],
                zorder={"trial": 1, "preset": 2, "reference": 3}.get(role, 5),
            )
        for p in self.beyond:
            axes.axhline(p.quality, color=COLOURS["reference"], lw=1, ls="--", zorder=2)
            axes.annotate(
                _level(p),
                (0.005, p.quality),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=7.5,
                color=COLOURS["reference"],
            )
        self._label(axes)
        axes.set_xlabel(self.cost_name)
        axes.set_ylabel(f"{self.quality_name}, 95 % interval")
        axes.set_title(self.title, loc="left", fontsize=12, fontweight="bold", pad=22)
        axes.text(0, 1.02, self.subtitle, transform=axes.transAxes, fontsize=8.5, color="#555555")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#EEEEEE", zorder=0)
        axes.legend(frameon=False, fontsize=8.5, loc="lower right")
        figure.savefig(path)

    def _label(self, axes: Any) -> None:
        """Write the names of references and presets beside their points, moved apart where they would collide."""
        points = [p for role in ("reference", "preset") for p in self.of(role)]
        if not points:
            return
        low, high = axes.get_ylim()
        gap = (high - low) / 28
        width = axes.get_xlim()[1] - axes.get_xlim()[0]
        placed: list[tuple[float, float]] = []
        for p in sorted(points, key=lambda p: -p.quality):
            y = p.quality
            while any(abs(p.cost - a) < 0.18 * width and abs(y - b) < gap for a, b in placed):
                y -= gap / 4
            placed.append((p.cost, y))
            axes.annotate(
                p.label,
                (p.cost, p.quality),
                xytext=(p.cost + 0.012 * width, y),
                fontsize=7.5,
                color=COLOURS[p.role],
                va="center",
            )


def _level(point: Point) -> str:
    return f"{point.label}: {100 * point.quality:.1f} % at {point.cost:,.0f}"


SHADES = ("#0072B2", "#E69F00", "#CC79A7", "#009E73")


@dataclass(frozen=True)
class Dots:
    """One value of a row: its series, the value and its standard error."""

    series: str
    value: float
    stderr: float | None


@dataclass(frozen=True)
class DotChart:
    """Rows of dots with 95 % intervals, one row a method, one colour a series, one panel a model.

    Args:
        title: of the whole.
        value_name: under the axes.
        panels: title, rows in order from the top, and (name, value) of a level to draw.
        baselines: rows whose names are set off.
    """

    title: str
    value_name: str
    panels: Sequence[tuple[str, Mapping[str, Sequence[Dots]], tuple[str, float]]]
    baselines: Sequence[str] = ()

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
                    elinewidth=0.8,
                    zorder=3,
                )
        for i, name in enumerate(series):
            axes.plot([], [], "o", ms=5, color=SHADES[i % len(SHADES)], label=name)
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
