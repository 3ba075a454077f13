"""Figures of one policy and of one search, each a function from plain data to a Plotly figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from autotc.charts.palette import COLOURS, PARTS
from autotc.policy import Policy

BETWEEN = 2  # columns of the projector, between the tower's blocks and the decoder's layers
SITES = {"input": "image", "vision": "vision tower", "projector": "projector", "decoder": "language model"}


@dataclass(frozen=True)
class Group:
    """One question group under a policy.

    Args:
        name: of the group.
        n: examples.
        quality, reference: scores of the policy and of the uncompressed model, 0..1.
        low, high: 95 % interval of the score's change; None with fewer than two images.
        right_to_wrong, wrong_to_right: answers that changed sides.
    """

    name: str
    n: int
    quality: float
    reference: float
    low: float | None
    high: float | None
    right_to_wrong: int
    wrong_to_right: int


@dataclass(frozen=True)
class Difference:
    """A difference of scores with its interval, shares of one.

    Args:
        name: what is compared with what.
        value, low, high: of the difference.
        verdict: in words.
    """

    name: str
    value: float
    low: float
    high: float
    verdict: str


def differences(rows: Sequence[Difference]) -> Any:
    """Return the Plotly figure of differences with their intervals, one row each, and the line of no difference."""
    figure = _figure("", "difference of scores", "")
    figure.add_vline(x=0, line={"width": 1.5, "dash": "dot", "color": COLOURS["limit"]})
    figure.add_scatter(
        x=[r.value for r in rows],
        y=[escape(r.name) for r in rows],
        error_x={
            "array": [r.high - r.value for r in rows],
            "arrayminus": [r.value - r.low for r in rows],
            "thickness": 1,
            "width": 3,
        },
        mode="markers+text",
        text=[escape(r.verdict) for r in rows],
        textposition="top center",
        marker={"size": 9, "color": COLOURS["front"]},
        hovertext=[
            f"{escape(r.name)}<br>{r.value:+.1%} [{r.low:+.1%}, {r.high:+.1%}]<br>{escape(r.verdict)}"
            for r in rows
        ],
        hoverinfo="text",
        showlegend=False,
    )
    figure.update_xaxes(tickformat="+.0%")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def tokens_by_depth(policy: Policy, tokens: float, kept: Sequence[float] | None = None) -> Any:
    """Return the Plotly figure of how many visual tokens are alive at each depth, every stage labelled.

    Args:
        policy: for the model that is drawn.
        tokens: visual tokens of a request without a policy.
        kept: fraction really kept after each stage, where it differs from what the policy asks.
    """
    blocks, layers = policy.model.vision_blocks, policy.model.decoder_layers
    start = {"input": 0, "vision": 0, "projector": blocks, "decoder": blocks + BETWEEN}
    end = blocks + BETWEEN + layers
    x, y, alive = [0.0], [tokens], tokens
    figure = _figure("", "depth", "visual tokens a request")
    for i, stage in enumerate(policy.stages):
        at = start[stage.site] + (stage.layer or 0)
        share = stage.keep if kept is None else kept[i]
        was, alive = alive, min(alive, share * tokens)
        x += [at, at]
        y += [was, alive]
        where = SITES[stage.site] + ("" if stage.layer is None else f", layer {stage.layer}")
        figure.add_annotation(
            x=at,
            y=alive,
            text=f"{i + 1} {escape(stage.reducer)} {alive:,.0f}",
            hovertext=f"stage {i + 1}: {where}<br>{escape(stage.reducer)} keeps {alive:,.0f} of {tokens:,.0f}",
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
        )
    figure.add_scatter(
        x=[*x, end],
        y=[*y, alive],
        mode="lines",
        fill="tozeroy",
        line={"color": COLOURS["front"], "width": 2},
        name="tokens alive",
        hoverinfo="x+y",
        showlegend=False,
    )
    for site in ("projector", "decoder"):
        figure.add_vline(x=start[site], line={"width": 1, "dash": "dot", "color": COLOURS["limit"]})
    for left, right, name in ((0, blocks, "vision tower"), (blocks + BETWEEN, end, "language model")):
        figure.add_annotation(
            x=(left + right) / 2, y=1, yref="y domain", text=name, yanchor="bottom", showarrow=False
        )
    ticks = [(j, str(j)) for j in range(0, blocks, _every(blocks))]
    ticks += [(blocks + BETWEEN + k, str(k)) for k in range(0, layers + 1, _every(layers))]
    figure.update_xaxes(
        tickvals=[at for at, _ in ticks],
        ticktext=[text for _, text in ticks],
        range=[0, end],
        title="layer that sees them",
    )
    figure.update_yaxes(range=[0, 1.12 * tokens], tickformat=",.0f")
    return figure


def cost_parts(bars: Mapping[str, Mapping[str, float]], unit: str = "TFLOP per 1,000 requests") -> Any:
    """Return the Plotly figure of costs by part, one stacked bar a policy, from the top.

    Args:
        bars: for each policy its parts in `unit`; parts without a colour of their own are grey.
    """
    figure = _figure("", unit, "")
    names = list(bars)
    for part in dict.fromkeys(part for parts in bars.values() for part in parts):
        values = [bars[name].get(part, 0.0) for name in names]
        figure.add_bar(
            y=[escape(name) for name in names],
            x=values,
            name=escape(part.replace("_", " ")),
            orientation="h",
            marker={"color": PARTS.get(part, COLOURS["limit"])},
            hovertext=[
                f"{escape(name)}<br>{escape(part.replace('_', ' '))}: {value:,.1f}"
                + _share(value, sum(bars[name].values()))
                for name, value in zip(names, values, strict=True)
            ],
            hoverinfo="text",
        )
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_xaxes(tickformat=",.0f", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def group_quality(groups: Sequence[Group], policy: str = "policy", reference: str = "uncompressed") -> Any:
    """Return the Plotly figure of the score of every question group, with and without the policy, and the flips.

    The bar on the policy's score is the interval of the paired change, cut at 0 and 1, so it can be compared with the
    other mark.
    """
    figure = _figure("", "score", "")
    names = [f"{escape(g.name)} (n {g.n})" for g in groups]
    figure.add_scatter(
        x=[g.reference for g in groups],
        y=names,
        mode="markers",
        name=escape(reference),
        marker={"size": 9, "color": COLOURS["reference"], "symbol": "circle-open"},
        hovertext=[
            f"{name}<br>{escape(reference)}: {g.reference:.1%}" for name, g in zip(names, groups, strict=True)
        ],
        hoverinfo="text",
    )
    figure.add_scatter(
        x=[g.quality for g in groups],
        y=names,
        error_x={
            "array": [0.0 if g.high is None else min(1.0, g.reference + g.high) - g.quality for g in groups],
            "arrayminus": [
                0.0 if g.low is None else g.quality - max(0.0, g.reference + g.low) for g in groups
            ],
            "thickness": 1,
            "width": 3,
        },
        mode="markers+text",
        text=[_flipped(g) for g in groups],
        textposition="top center",
        name=escape(policy),
        marker={"size": 9, "color": COLOURS["front"]},
        hovertext=[
            f"{name}<br>{escape(policy)}: {g.quality:.1%}, change {g.quality - g.reference:+.1%}{_band(g)}"
            f"<br>{g.right_to_wrong} right to wrong, {g.wrong_to_right} wrong to right"
            for name, g in zip(names, groups, strict=True)
        ],
        hoverinfo="text",
    )
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def hypervolume_history(values: Sequence[float], name: str = "share of the area") -> Any:
    """Return the Plotly figure of the hypervolume after each trial.

    Args:
        values: one a trial, in the order in which they finished.
    """
    figure = _figure("", "trials finished", name)
    figure.add_scatter(
        x=list(range(1, len(values) + 1)),
        y=list(values),
        mode="lines",
        line={"shape": "hv", "color": COLOURS["front"], "width": 2},
        name=name,
        showlegend=False,
    )
    figure.update_xaxes(tickformat=",.0f")
    return figure


def _figure(title: str, x: str, y: str) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        title={"text": title} if title else None,
        xaxis_title=x,
        yaxis_title=y,
        legend={"orientation": "h", "y": -0.2},
    )
    return figure


def _flipped(group: Group) -> str:
    said = (f"{group.right_to_wrong} lost", f"{group.wrong_to_right} gained")
    return ", ".join(text for text in said if not text.startswith("0 "))


def _every(layers: int) -> int:
    return next(step for step in (1, 2, 4, 8, 16, 32) if layers / step <= 8)


def _share(value: float, total: float) -> str:
    return f" ({value / total:.0%})" if total else ""


def _band(group: Group) -> str:
    return "" if group.low is None or group.high is None else f" [{group.low:+.1%}, {group.high:+.1%}]"
