"""The figures of the page, each as SVG for a wide and for a narrow column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from autotc import charts
from autotc.breakdown import GroupChange
from autotc.charts import FrontChart, Limit, Point
from autotc.report.losses import Entry
from autotc.report.reading import Report

WIDE, NARROW = 900, 358
MOST_ROWS = 16  # question groups drawn; the table holds all of them


def pictures(report: Report) -> dict[str, Markup]:
    """Return the figures that the study has data for, by name."""
    drawn: dict[str, Callable[[], Any]] = {
        "front": lambda: _front(report, "exact"),
        "front_literature": lambda: _front(report, "literature"),
        "depth": lambda: _depth(report),
        "groups": lambda: _groups(report),
        "claims": lambda: _claims(report),
        "parts": lambda: _parts(report),
        "parts_literature": lambda: _parts_literature(report),
        "hypervolume": lambda: charts.hypervolume_history(report.history.share) if report.history else None,
    }
    found = {name: draw() for name, draw in drawn.items()}
    return {name: _picture(name, figure) for name, figure in found.items() if figure is not None}


ALT = {
    "front": "Quality against exact cost: the front with 95 % intervals, other trials, references and presets.",
    "front_literature": "The same against cost by the papers' count, with the limit.",
    "depth": "Visual tokens alive at each layer under the policy.",
    "groups": "Score by question group, with and without the policy.",
    "claims": "Differences to what the policies are compared with, with their intervals.",
    "parts": "Cost by part as executed.",
    "parts_literature": "Cost by the papers' count.",
    "hypervolume": "Area that the front covers after each trial.",
}


def _picture(name: str, figure: Any) -> Markup:
    rows = (
        len(dict.fromkeys(y for trace in figure.data for y in trace.y))
        if name in ("groups", "claims", *BARS)
        else 0
    )
    tall = {"depth": 300, "hypervolume": 240}.get(name, 440)
    each = 30 if name in BARS else 38
    wide, narrow = (tall, max(tall - 40, 240)) if not rows else (90 + each * rows, 110 + each * rows)
    both = Markup('<div class="wide">{}</div><div class="narrow">{}</div>')
    return both.format(
        charts.svg(figure, WIDE, wide, ALT[name]), charts.svg(figure, NARROW, narrow, ALT[name])
    )


BARS = ("parts", "parts_literature")


def _front(report: Report, convention: str) -> Any:
    if not any(e.member.number("quality", report.view.split) for e in report.entries):
        return None
    chart = report.view.chart("tflops_exact", "quality")
    name = "as executed" if convention == "exact" else "by the papers' count"
    chart = replace(
        chart,
        cost_name=f"TFLOP per 1,000 requests, {name} (estimated)",
        quality_name=f"{chart.quality_name}, 95 % interval",
        limit=limit_line(report, convention),
        chosen=report.recommended.member.trial if report.recommended else None,
    )
    return (chart if convention == "exact" else _by_literature(report, chart)).figure()


def _by_literature(report: Report, chart: FrontChart) -> FrontChart:
    cost = {e.member.trial: e.member.value("tflops_literature") for e in report.entries}
    points: list[Point] = [replace(p, cost=cost[p.trial]) for p in chart.points if p.trial in cost]
    return replace(chart, points=points)


def limit_line(report: Report, convention: str) -> Limit | None:
    """Return the limit as a place on a cost axis.

    A limit in the other convention has no one place there: it stands where plain random tokens meet it.
    """
    view = report.view
    if view.limit is None:
        return None
    if view.convention == convention:
        return Limit(view.limit, f"limit {view.limit:,g}")
    plain = report.reference("random")
    if plain is None or not report.within(plain):
        return None
    counted = "papers' count" if view.convention == "literature" else "as executed"
    return Limit(
        plain.member.value(f"tflops_{convention}"),
        f"random tokens at the limit of {view.limit:,g} ({counted})",
    )


def _depth(report: Report) -> Any:
    chosen, plain = report.recommended, report.uncompressed
    if chosen is None or plain is None or not chosen.member.policy.stages:
        return None
    tokens = plain.row.costs.get("entering_tokens") or plain.member.value("visual_tokens")
    return charts.tokens_by_depth(chosen.member.policy, tokens, kept(chosen))


def kept(entry: Entry) -> list[float]:
    """Return the fraction of the image's tokens alive after each stage: what was asked, or less where it was less."""
    stages, trace = entry.member.policy.stages, {int(t["stage"]): t for t in entry.row.trace}
    out = []
    for i, stage in enumerate(stages):
        there = trace.get(i)
        part = min(1.0, there["kept"] / there["asked"]) if there and there["asked"] else 1.0
        # an input stage's count is that of the nearest picture size, on the evaluated model's own grid
        out.append(stage.keep if stage.site == "input" else stage.keep * part)
    return out


def _groups(report: Report) -> Any:
    lost = report.losses
    if lost is None or not lost.groups:
        return None
    return charts.group_quality([_group(g) for g in lost.groups[:MOST_ROWS]], "this policy")


def _group(change: GroupChange) -> charts.Group:
    low, high = change.drop.low, change.drop.high
    return charts.Group(
        change.group,
        change.n,
        change.quality,
        change.uncompressed,
        None if high is None else -high,
        None if low is None else -low,
        change.flips.right_to_wrong,
        change.flips.wrong_to_right,
    )


def _claims(report: Report) -> Any:
    rows = [
        charts.Difference(f"against {c.rival}", c.difference, c.low, c.high, c.verdict) for c in report.claims
    ]
    return charts.differences(rows) if rows else None


def compared(report: Report) -> Sequence[Entry]:
    """Return the policies whose costs stand side by side: the recommended one and what it replaces."""
    wanted = [report.uncompressed, report.recommended, *report.presets[:1]]
    wanted += [report.reference("random"), report.reference("downsample")]
    return list({id(e): e for e in wanted if e is not None}.values())


def _parts(report: Report) -> Any:
    bars = {e.name: e.row.costs["parts"] for e in compared(report) if e.row.costs.get("parts")}
    return charts.cost_parts(bars, "TFLOP per 1,000 requests, as executed (estimated)") if bars else None


def _parts_literature(report: Report) -> Any:
    bars = {e.name: {"prefill": e.member.value("tflops_literature")} for e in compared(report)}
    return charts.cost_parts(bars, "TFLOP per 1,000 requests, papers' count (estimated)") if bars else None
