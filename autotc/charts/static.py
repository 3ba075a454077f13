"""Our Plotly figures as SVG, for pages without a script library: light or dark, on paper, on a phone.

Of Plotly it knows what the figures of this package use: scatter traces (points, lines, steps, filled, with error
bars and labels), stacked horizontal bars, straight lines across an axis, annotations, named rows. Every colour is
written as `var(--c-<hex>, #<hex>)`, so that a page can replace it; a point's hover text is its `title`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import unescape
from typing import Any

from markupsafe import Markup, escape

LETTER = 6.9  # width of a letter of a wide font, px at 12 px
LINE = 15.0  # height of a line of text, px


def svg(figure: Any, width: int = 760, height: int = 440, label: str = "") -> Markup:
    """Return a figure as one `<svg>` element that scales with its column.

    Args:
        figure: a Plotly figure of this package.
        width, height: of the drawing, px.
        label: what the picture shows, for those who cannot see it.
    """
    canvas = _Canvas(figure, width, height)
    for trace in figure.data:
        if trace.type == "bar":
            canvas.bars(trace)
        else:
            canvas.scatter(trace)
    canvas.shapes()
    canvas.labels()
    return canvas.element(label)


class _Canvas:
    """One drawing: scales of the figure's axes, and the marks put on it so far, from back to front."""

    def __init__(self, figure: Any, width: int, height: int) -> None:
        self.layout, self.data = figure.layout, figure.data
        self.width, self.height = width, height
        self.rows = _rows(figure.data, "y")
        values = {axis: _values(figure, axis, self.rows) for axis in "xy"}
        widest = max((len(_plain(r)) for r in self.rows), default=0)
        self.left = min(0.4 * width, 22 + LETTER * widest) if self.rows else 62.0
        self.top = 30.0 if self.layout.annotations else 22.0
        self.right, self.bottom = 14.0, 46.0 + (LINE + 3) * self._legend_lines()
        self.x = _scale(self.layout.xaxis, values["x"], self.left, width - self.right)
        if self.rows:
            self.y = _Scale(-0.5, len(self.rows) - 0.5, self.top, height - self.bottom)
        else:
            self.y = _scale(self.layout.yaxis, values["y"], height - self.bottom, self.top)
        self.marks: list[Markup] = []
        self.texts: list[tuple[int, float, float, str, str, str]] = []
        self.taken: list[tuple[float, float, float, float]] = []
        self.stacked = [0.0] * len(self.rows)

    # --- marks ---

    def scatter(self, trace: Any) -> None:
        """Draw a scatter trace: filled area, line, error bars, points; its labels wait."""
        if trace.x is None or not len(trace.x):
            return
        x = [self.x(v) for v in trace.x]
        y = [self.y(self.rows.index(v) if self.rows else v) for v in trace.y]
        mode = trace.mode or "markers"
        if "lines" in mode:
            self._line(trace, x, y)
        if "markers" not in mode:
            return
        colour = trace.marker.color
        for axis, bars in (("x", trace.error_x), ("y", trace.error_y)):
            self._errors(axis, bars, trace, x, y, colour)
        radius = (trace.marker.size or 8) / 2
        hollow = (trace.marker.symbol or "").endswith("open")
        for i, (a, b) in enumerate(zip(x, y, strict=True)):
            if not (self._inside(a, b)):
                continue
            paint = Markup('fill="none" stroke="{}" stroke-width="2"' if hollow else 'fill="{}"').format(
                _colour(colour)
            )
            text = "" if trace.hovertext is None or trace.hoverinfo == "skip" else trace.hovertext[i]
            self._mark(
                Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:g}" {}').format(a, b, radius, paint),
                "circle",
                text,
            )
            self.taken.append((a - radius, b - radius, a + radius, b + radius))
            if "text" in mode and trace.text is not None and trace.text[i]:
                above = "top" in (trace.textposition or "")
                self.texts.append(
                    (-int(radius), a, b, _plain(trace.text[i]), colour, "top" if above else "side")
                )

    def _line(self, trace: Any, x: list[float], y: list[float]) -> None:
        steps = trace.line.shape == "hv"
        path = f"M{x[0]:.1f} {y[0]:.1f}"
        for a, b in zip(x[1:], y[1:], strict=True):
            path += f"H{a:.1f}V{b:.1f}" if steps else f"L{a:.1f} {b:.1f}"
        colour = _colour(trace.line.color)
        if trace.fill == "tozeroy":
            floor = f"V{self.height - self.bottom:.1f}H{x[0]:.1f}Z"
            self.marks.append(Markup('<path d="{}" fill="{}" opacity=".14"/>').format(path + floor, colour))
        shape = Markup('<path d="{}" fill="none" stroke="{}" stroke-width="{:g}"/>')
        self.marks.append(shape.format(path, colour, trace.line.width or 1.5))

    def _errors(self, axis: str, bars: Any, trace: Any, x: list[float], y: list[float], colour: str) -> None:
        if bars.array is None:
            return
        scale, values = (self.x, trace.x) if axis == "x" else (self.y, trace.y)
        for i, above in enumerate(bars.array):
            below = above if bars.arrayminus is None else bars.arrayminus[i]
            if not above and not below:
                continue
            a, b = scale.clipped(values[i] - below), scale.clipped(values[i] + above)
            line = f"M{a:.1f} {y[i]:.1f}H{b:.1f}" if axis == "x" else f"M{x[i]:.1f} {a:.1f}V{b:.1f}"
            self.marks.append(Markup('<path d="{}" stroke="{}" fill="none"/>').format(line, _colour(colour)))

    def bars(self, trace: Any) -> None:
        """Draw one part of stacked horizontal bars."""
        tall = (self.y(1) - self.y(0)) * (1 - (self.layout.bargap or 0.2)) if len(self.rows) > 1 else 34.0
        tall = min(tall, 34.0)
        for name, value, text in zip(trace.y, trace.x, trace.hovertext, strict=True):
            row = self.rows.index(name)
            a, b = self.x(self.stacked[row]), self.x(self.stacked[row] + value)
            self.stacked[row] += value
            if b - a < 0.05:
                continue
            start = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"')
            box = start.format(a, self.y(row) - tall / 2, b - a, tall, _colour(trace.marker.color))
            self._mark(box, "rect", text)

    def shapes(self) -> None:
        """Draw the lines that run across an axis."""
        for shape in self.layout.shapes:
            if shape.yref.endswith("domain"):
                a, top, floor = self.x(shape.x0), self.top, self.height - self.bottom
                path = f"M{a:.1f} {top:.1f}V{floor:.1f}"
            else:
                b = self.y(shape.y0)
                path = f"M{self.left:.1f} {b:.1f}H{self.width - self.right:.1f}"
            dash = {"dash": "6 4", "dot": "2 3"}.get(shape.line.dash or "", "none")
            line = Markup('<path d="{}" stroke="{}" stroke-width="{:g}" stroke-dasharray="{}" fill="none"/>')
            self.marks.insert(0, line.format(path, _colour(shape.line.color), shape.line.width or 1, dash))

    def _mark(self, start: Markup, tag: str, text: str) -> None:
        if not text:
            self.marks.append(start + Markup("/>"))
            return
        lines = "\n".join(_plain(line) for line in text.split("<br>"))
        self.marks.append(start + Markup("><title>{}</title></{}>").format(lines, Markup(tag)))

    def _inside(self, a: float, b: float) -> bool:
        return (
            self.left - 1 <= a <= self.width - self.right + 1
            and self.top - 1 <= b <= self.height - self.bottom + 1
        )

    # --- text ---

    def labels(self) -> None:
        """Write annotations, then the labels of points where there is room, the largest points first."""
        for note in self.layout.annotations:
            self._annotation(note)
        for _, a, b, text, colour, where in sorted(self.texts, key=lambda item: item[0]):
            wide = LETTER * len(text)
            beside = [
                (a + 8, b + 4),
                (a - 8 - wide, b + 4),
                (a + 6, b - 8),
                (a + 6, b + 16),
                (a - 6 - wide, b - 8),
            ]
            above = [(a - wide / 2, b - 10)]
            for left, base in above if where == "top" else beside:
                if self._write(left, base, text, colour):
                    break

    def _annotation(self, note: Any) -> None:
        text = _plain(note.text)
        wide = LETTER * len(text)
        on_x = not (note.xref or "x").endswith("domain")
        on_y = not (note.yref or "y").endswith("domain")
        a = self.x(note.x) if on_x else self.left + note.x * (self.width - self.right - self.left)
        b = (
            self.y(note.y)
            if on_y
            else self.height - self.bottom - note.y * (self.height - self.bottom - self.top)
        )
        left = {"center": a - wide / 2, "right": a - 5 - wide}.get(note.xanchor or "center", a + 5)
        base = b + LINE - 2 if note.yanchor == "top" else b - 5
        left = max(self.left + 2, min(left, self.width - self.right - wide))
        inside = self.top <= b <= self.height - self.bottom + 1
        for shift in (0, -LINE, LINE, -2 * LINE, 2 * LINE, -3 * LINE, -4 * LINE):
            if inside and base + shift > self.height - self.bottom:
                continue
            if self._write(left, base + shift, text, "", _plain(note.hovertext or "")):
                return
        self._write(left, base, text, "", _plain(note.hovertext or ""), force=True)

    def _write(
        self, left: float, base: float, text: str, colour: str, title: str = "", force: bool = False
    ) -> bool:
        box = (left - 1, base - 11, left + LETTER * len(text) + 1, base + 3)
        clash = any(box[0] < c and a < box[2] and box[1] < d and b < box[3] for a, b, c, d in self.taken)
        outside = box[0] < self.left or box[2] > self.width or box[1] < 0
        if (clash or outside) and not force:
            return False
        self.taken.append(box)
        paint = Markup(' fill="{}"').format(_colour(colour)) if colour else ""
        start = Markup('<text class="halo" x="{:.1f}" y="{:.1f}"{}>').format(left, base, paint)
        hover = Markup("<title>{}</title>").format(title) if title else ""
        self.marks.append(start + hover + escape(text) + Markup("</text>"))
        return True

    # --- frame ---

    def _legend(self) -> list[tuple[str, str, bool]]:
        found = []
        for trace in self.data:
            if trace.showlegend is False or not trace.name:
                continue
            scatter = trace.type == "scatter"
            colour = trace.marker.color or (trace.line.color if scatter else None)
            hollow = scatter and str(trace.marker.symbol or "").endswith("open")
            found.append((_plain(trace.name), str(colour), hollow))
        return found

    def _legend_lines(self) -> int:
        entries = self._legend()
        if len(entries) < 2:
            return 0
        return math.ceil(sum(30 + LETTER * len(name) for name, _, _ in entries) / (self.width - 20))

    def _frame(self) -> Markup:
        floor, parts = self.height - self.bottom, []
        ticks = self.layout.xaxis.tickvals
        texts = self.layout.xaxis.ticktext
        if ticks is None:
            ticks = _ticks(self.x.low, self.x.high, max(3, int((self.width - self.left) / 90)))
            texts = [_tick(v, self.layout.xaxis.tickformat, ticks) for v in ticks]
        end = -math.inf
        for v, text in zip(ticks, texts, strict=True):
            a, half = self.x(v), LETTER * len(text) / 2
            if a - half < end:  # it would touch its neighbour
                continue
            end = a + half + 3
            parts.append(Markup('<path class="grid" d="M{:.1f} {:.1f}V{:.1f}"/>').format(a, self.top, floor))
            parts.append(
                Markup('<text class="tick mid" x="{:.1f}" y="{:.1f}">{}</text>').format(a, floor + 16, text)
            )
        for i, row in enumerate(self.rows):
            text = _short(_plain(row), self.left - 14)
            place = Markup('<text class="row end" x="{:.1f}" y="{:.1f}">{}</text>')
            parts.append(place.format(self.left - 8, self.y(i) + 4, text))
        if not self.rows:
            ticks = _ticks(self.y.low, self.y.high, max(3, int((floor - self.top) / 60)))
            for v in ticks:
                b, text = self.y(v), _tick(v, self.layout.yaxis.tickformat, ticks)
                grid = Markup('<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/>')
                parts.append(grid.format(self.left, b, self.width - self.right))
                parts.append(
                    Markup('<text class="tick end" x="{:.1f}" y="{:.1f}">{}</text>').format(
                        self.left - 7, b + 4, text
                    )
                )
        half = LETTER * len(_plain(self.layout.xaxis.title.text or "")) / 2
        middle = min((self.left + self.width - self.right) / 2, self.width - half)
        name = Markup('<text class="axis mid" x="{:.1f}" y="{:.1f}">{}</text>')
        parts.append(name.format(middle, floor + 36, _plain(self.layout.xaxis.title.text or "")))
        if self.layout.yaxis.title.text:
            parts.append(
                Markup('<text class="axis" x="2" y="11">{}</text>').format(
                    _plain(self.layout.yaxis.title.text)
                )
            )
        return Markup("").join(parts) + self._legend_marks(floor + 40 + LINE)

    def _legend_marks(self, base: float) -> Markup:
        parts, left, entries = [], 10.0, self._legend()
        if len(entries) < 2:
            return Markup("")
        for text, colour, hollow in entries:
            wide = 30 + LETTER * len(text)
            if left + wide > self.width and left > 10:
                left, base = 10.0, base + LINE + 3
            paint = 'fill="none" stroke="{}" stroke-width="2"' if hollow else 'fill="{}"'
            dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5" ') + Markup(paint) + Markup("/>")
            parts.append(dot.format(left + 5, base - 4, _colour(colour)))
            parts.append(
                Markup('<text class="tick" x="{:.1f}" y="{:.1f}">{}</text>').format(left + 14, base, text)
            )
            left += wide
        return Markup("").join(parts)

    def element(self, label: str) -> Markup:
        """Return what was drawn."""
        start = Markup('<svg viewBox="0 0 {} {}" width="{}" role="img" aria-label="{}">')
        head = start.format(self.width, self.height, self.width, label)
        return head + self._frame() + Markup("").join(self.marks) + Markup("</svg>")


class _Scale:
    """A linear map from data to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def clipped(self, value: float) -> float:
        return self(min(max(value, self.low), self.high))


def _scale(axis: Any, values: Sequence[float], start: float, end: float) -> _Scale:
    """Return the scale of an axis: its range, or one that leaves some air around the values."""
    if axis.range is not None:
        return _Scale(float(axis.range[0]), float(axis.range[1]), start, end)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if axis.rangemode == "tozero":
        low = min(0.0, low)
    air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return _Scale(low if axis.rangemode == "tozero" and low == 0 else low - air, high + air, start, end)


def _rows(data: Sequence[Any], axis: str) -> list[str]:
    """Return the names on an axis of categories, in the order they come; none where the axis has numbers."""
    found = [v for trace in data if trace[axis] is not None for v in trace[axis]]
    return list(dict.fromkeys(found)) if found and isinstance(found[0], str) else []


def _values(figure: Any, axis: str, rows: Sequence[str]) -> list[float]:
    """Return every finite number that must fit on an axis."""
    if axis == "y" and rows:
        return []
    found: list[float] = []
    stacked: dict[str, float] = {}
    for trace in figure.data:
        if trace.type == "bar":
            for name, value in zip(trace.y, trace.x, strict=True):
                stacked[name] = stacked.get(name, 0.0) + value
            continue
        values = list(trace[axis] if trace[axis] is not None else ())
        error = trace[f"error_{axis}"]
        above = list(error.array) if error.array is not None else [0.0] * len(values)
        below = list(error.arrayminus) if error.arrayminus is not None else above
        found += [v + e for v, e in zip(values, above, strict=True)]
        found += [v - e for v, e in zip(values, below, strict=True)]
    found += stacked.values()
    across = "x" if axis == "x" else "y"
    for shape in figure.layout.shapes:
        along_y = shape.yref.endswith("domain")
        if along_y == (across == "x"):
            found.append(shape[f"{across}0"])
    return [v for v in found if math.isfinite(v)]


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return round numbers between two values, at most about as many as wanted."""
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.75)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float, spec: str | None, ticks: Sequence[float]) -> str:
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else abs(value) or 1.0
    if spec and spec.endswith("%"):
        sign = "+" if spec.startswith("+") and value else ""
        return f"{value:{sign}.{max(0, -math.floor(math.log10(100 * step) + 1e-9))}%}".replace("-", "−")
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", "−")


def _plain(text: Any) -> str:
    return unescape(str(text))


def _short(text: str, width: float) -> str:
    fits = int(width / LETTER)
    return text if len(text) <= fits else text[: max(1, fits - 1)] + "…"


def _colour(colour: Any) -> str:
    colour = str(colour or "#6B7280")
    return f"var(--c-{colour.lstrip('#').lower()}, {colour})"
