"""A front as one frame of points, drawn by Plotly (HTML) or Matplotlib (PNG)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autotc.charts.palette import COLOURS
from autotc.errors import SpecError

Role = Literal["front", "trial", "reference", "preset"]

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
        trial: what a click on it selects; references have their label.
    """

    cost: float
    quality: float
    stderr: float | None
    role: Role
    label: str
    detail: str
    trial: int | str | None = None


@dataclass(frozen=True)
class Limit:
    """A budget: its place on the cost axis and what is written there."""

    cost: float
    label: str


@dataclass(frozen=True)
class FrontChart:
    """Quality against cost: the front, what it was chosen from, and what it is compared with.

    Args:
        limit: drawn as a line across the cost axis.
        chosen: `Point.trial` of the point that is ringed.
        stairs: join the front's points.
        percent: write levels of the y axis as percentages.
    """

    title: str
    subtitle: str
    points: Sequence[Point]
    quality_name: str = "accuracy"
    cost_name: str = "TFLOP per 1,000 requests (exact, estimated)"
    limit: Limit | None = None
    chosen: int | str | None = None
    stairs: bool = True
    percent: bool = True

    def of(self, role: Role) -> list[Point]:
        """Points of one role that stand on the axes, by cost."""
        far = self.beyond if role == "reference" else []
        near = (p for p in self.measured if p.role == role and p not in far)
        return sorted(near, key=lambda p: p.cost)

    @property
    def measured(self) -> list[Point]:
        """Points with both figures: NaN has no place on an axis."""
        return [p for p in self.points if math.isfinite(p.cost) and math.isfinite(p.quality)]

    @property
    def beyond(self) -> list[Point]:
        """References so costly that they would press all else together: drawn as levels instead of points."""
        costs = [p.cost for p in self.measured if p.role != "reference"]
        return [p for p in self.measured if p.role == "reference" and costs and p.cost > 1.3 * max(costs)]

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
                mode="lines+markers"
                if role == "front" and self.stairs
                else "markers"
                if role == "front"
                else "markers+text"
                if role != "trial"
                else "markers",
                text=[p.label for p in points],
                textposition="middle right",
                hovertext=[p.detail for p in points],
                hoverinfo="text",
                customdata=[p.trial for p in points],
                name=NAMES[role],
                line={"shape": "hv", "width": 1.5, "color": COLOURS[role]},
                marker={"size": 6 if role == "trial" else 9, "color": COLOURS[role]},
            )
        ringed = [p for p in self.points if self.chosen is not None and p.trial == self.chosen]
        if ringed:
            figure.add_scatter(
                x=[p.cost for p in ringed],
                y=[p.quality for p in ringed],
                mode="markers",
                hoverinfo="skip",
                name="chosen",
                marker={"size": 17, "color": COLOURS["chosen"], "symbol": "circle-open"},
            )
        if self.limit is not None:
            figure.add_vline(
                x=self.limit.cost,
                line={"dash": "dot", "width": 1.5, "color": COLOURS["limit"]},
                annotation_text=self.limit.label,
                annotation_position="bottom left",
            )
        for p in self.beyond:
            figure.add_hline(
                y=p.quality,
                line={"dash": "dash", "width": 1, "color": COLOURS["reference"]},
                annotation_text=_level(p, self.percent),
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
            if role == "front" and self.stairs:
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
                _level(p, self.percent),
                (0.005, p.quality),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=7.5,
                color=COLOURS["reference"],
            )
        if self.limit is not None:
            axes.axvline(
                self.limit.cost, color=COLOURS["limit"], lw=1.2, ls=":", label=self.limit.label, zorder=2
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


def _level(point: Point, percent: bool) -> str:
    level = f"{100 * point.quality:.1f} %" if percent else f"{point.quality:.3g}"
    return f"{point.label}: {level} at " + (
        f"{point.cost:,.0f}" if point.cost >= 100 else f"{point.cost:.3g}"
    )
