"""Figures looked at on a screen: plain data in, Plotly out. Names from users are text, never markup."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go

from autotc.charts import COLOURS

Role = Literal["front", "trial", "over", "preset", "reference", "other"]

# Okabe-Ito, with a lighter blue where the ground is dark; every pair is told apart with every common colour vision
LIGHT = {
    "front": "#0072B2",
    "trial": "#9AA8B5",
    "over": "#C9CDD2",
    "preset": "#009E73",
    "reference": "#D55E00",
    "other": "#AA3377",
    "ink": "#1F2933",
    "paper": "#FFFFFF",
}
DARK = {
    "front": "#56B4E9",
    "trial": "#7B8794",
    "over": "#4A5058",
    "preset": "#2FC79A",
    "reference": "#F0803C",
    "other": "#E69BD0",
    "ink": "#F2F4F7",
    "paper": "#0E1117",
}
NAMES: dict[Role, str] = {
    "front": "front",
    "trial": "other trials",
    "over": "over the budget",
    "preset": "published presets",
    "reference": "references",
    "other": "front of the other study",
}
SYMBOLS = {"preset": "diamond", "reference": "square", "over": "circle-open", "other": "triangle-up"}
LETTER = 13  # px, height of a line of small text
ROOM = 0.15  # share of the width that names at the right end take
MANY = 2000  # markers from here on are drawn by the graphics card


@dataclass(frozen=True)
class Mark:
    """One policy on two axes.

    Args:
        key: what a click gives back.
        x, y: values; not drawn where one is NaN.
        error: half of the 95 % interval of y, or None.
        role: how it is drawn.
        text: short name beside it, empty for none.
        hover: lines shown when the pointer is on it, as plain text.
    """

    key: str
    x: float
    y: float
    error: float | None
    role: Role
    text: str
    hover: tuple[str, ...]


def front(
    marks: Sequence[Mark],
    x_title: str,
    y_title: str,
    *,
    limit: float | None = None,
    chosen: str | None = None,
    percent: bool = True,
    stairs: bool = True,
    dark: bool = False,
) -> go.Figure:
    """Return policies on two axes, the front as stairs with 95 % intervals.

    Args:
        marks: in any order; `key` goes into `customdata`.
        x_title, y_title: with units.
        limit: a budget on the x axis, drawn as a line.
        chosen: key of the mark to ring.
        percent: write y as a percentage.
        stairs: join the front's marks.
        dark: colours for a dark ground.
    """
    colours = DARK if dark else LIGHT
    figure = go.Figure()
    levels = _beyond(marks)
    marks = [m for m in marks if m not in levels]
    labelled = _apart([m for m in marks if m.text], marks)
    across = [x for x in (*(m.x for m in marks), *([] if limit is None else [limit])) if math.isfinite(x)]
    low, high = min(across, default=0.0), max(across, default=1.0)
    wide = (high - low) or 1.0
    crowded = any(m.key in labelled and m.x > high - ROOM * wide for m in marks)
    for role in ("over", "trial", "other", "preset", "reference", "front"):
        mine = sorted((m for m in marks if m.role == role), key=lambda m: m.x)
        if not mine:
            continue
        plain = role in ("trial", "over")
        named = role in ("preset", "reference")
        joined = stairs and role in ("front", "other")
        make = go.Scattergl if len(mine) > MANY else go.Scatter
        figure.add_trace(
            make(
                x=[m.x for m in mine],
                y=[m.y for m in mine],
                customdata=[[m.key] for m in mine],
                error_y=None
                if plain
                else {"array": [m.error or 0 for m in mine], "thickness": 1.2, "width": 3},
                mode="+".join(("markers", *(("lines",) if joined else ()), *(("text",) if named else ()))),
                text=[html.escape(m.text) if m.key in labelled else "" for m in mine] if named else None,
                textposition="middle right",
                textfont={"size": 11, "color": colours[role]},
                hovertext=["<br>".join(map(html.escape, m.hover)) for m in mine],
                hoverinfo="text",
                name=NAMES[role],
                line={"shape": "hv", "width": 1.6} if joined else None,
                marker={
                    "size": 6 if plain else 9,
                    "color": colours[role],
                    "symbol": SYMBOLS.get(role, "circle"),
                    "line": {"width": 0 if plain else 1, "color": colours["paper"]},
                },
                unselected={
                    "marker": {"opacity": 1.0},
                    **({"textfont": {"color": colours[role]}} if named else {}),
                },
            )
        )
    ringed = next((m for m in marks if m.key == chosen), None)
    if ringed is not None:
        figure.add_trace(
            go.Scatter(
                x=[ringed.x],
                y=[ringed.y],
                mode="markers",
                marker={
                    "size": 19,
                    "symbol": "circle-open",
                    "color": colours["ink"],
                    "line": {"width": 2.2, "color": colours["ink"]},
                },
                hoverinfo="skip",
                name="selected",
            )
        )
    for m in levels:
        figure.add_hline(
            y=m.y,
            line={"dash": "dot", "width": 1.2, "color": colours["reference"]},
            annotation_text=f"{html.escape(m.text)}: {f'{m.y:.1%}' if percent else f'{m.y:,.3g}'} at {m.x:,.0f}",
            annotation_position="top left",
            annotation_font={"color": colours["reference"]},
        )
    if limit is not None:
        figure.add_vline(
            x=limit,
            line={"dash": "dash", "width": 1.5, "color": colours["ink"]},
            annotation_text=f"budget {limit:,.0f}",
            annotation_position="bottom left",
        )
    figure.update_layout(
        xaxis_title=x_title,
        xaxis_range=[low - 0.05 * wide, high + (ROOM if crowded else 0.05) * wide] if across else None,
        yaxis_title=y_title,
        yaxis_tickformat=".0%" if percent else None,
        **_frame(430),
        uirevision="front",
        clickmode="event+select",
        dragmode=False,
    )
    return figure


def dressed(figure: go.Figure, height: int, dark: bool = False) -> go.Figure:
    """Return a figure of `autotc.charts` as a page shows it: its height, slim margins, colours for its ground."""
    figure.update_layout(template=None, **_frame(height))
    _spread(figure, height)
    if dark:
        swap = {COLOURS[role].lower(): DARK[role] for role in DARK if role in COLOURS}
        for trace in figure.data:
            for part in (trace.marker, getattr(trace, "line", None)):
                if part is not None and isinstance(part.color, str):
                    part.color = swap.get(part.color.lower(), part.color)
    return figure


def _spread(figure: go.Figure, height: int) -> None:
    """Move notes that stand to the right of their places up where they would lie on an earlier one."""
    notes = [note for note in figure.layout.annotations if note.xanchor == "left"]
    top = (figure.layout.yaxis.range or (0, 1))[1] or 1
    wide = 0.22 * max((note.x for note in notes), default=1.0)
    taken: list[tuple[float, float]] = []
    for note in notes:
        start = y = 0.7 * height * note.y / top  # px above the axis, about
        while any(abs(note.x - a) < wide and abs(y - b) < LETTER for a, b in taken):
            y += LETTER + 2
        taken.append((note.x, y))
        note.xshift, note.yshift = 6, y - start


def _beyond(marks: Sequence[Mark]) -> list[Mark]:
    """References so far to the right that they would press all else together: drawn as levels instead of points."""
    near = [m.x for m in marks if m.role != "reference"]
    return [m for m in marks if m.role == "reference" and near and m.x > 1.3 * max(near)]


def _apart(named: Sequence[Mark], marks: Sequence[Mark]) -> set[str]:
    """Return the marks whose names can stand beside them without lying on one another, the highest first."""
    wide = (max((m.x for m in marks), default=1.0) - min((m.x for m in marks), default=0.0)) or 1.0
    tall = (max((m.y for m in marks), default=1.0) - min((m.y for m in marks), default=0.0)) or 1.0
    placed: list[Mark] = []
    for m in sorted(named, key=lambda m: (m.role != "reference", -m.y)):
        if all(abs(m.x - o.x) > 0.12 * wide or abs(m.y - o.y) > 0.05 * tall for o in placed):
            placed.append(m)
    return {m.key for m in placed}


def _frame(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 10, "r": 16, "t": 28, "b": 10},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hoverlabel": {"align": "left"},
    }
