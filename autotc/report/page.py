"""A report as one HTML page that loads nothing: figures are SVG, style and script stand inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autotc import __version__
from autotc.charts.figures import SITES
from autotc.report import provenance, words
from autotc.report.pictures import compared, kept, pictures
from autotc.report.reading import Report
from autotc.statistics import Interval
from autotc.tables.console import written


def render(report: Report) -> str:
    """Return the page; every text from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("autotc.report", "."), autoescape=True, undefined=StrictUndefined
    )
    for name in ("tflop", "percent", "share", "points", "band", "rho", "p", "difference"):
        environment.filters[name] = getattr(words, name)
    environment.filters["negative"] = _negative
    environment.globals["written"] = written
    style, script = (_asset(name) for name in ("style.css", "script.js"))
    chosen = report.recommended
    text = report.policy.json_text() if report.policy else ""
    return environment.get_template("page.html.j2").render(
        r=report,
        chosen=chosen,
        style=style,
        script=script,
        policy_header=_content_policy(style, script),
        figures=pictures(report),
        question=words.question(report),
        limit=words.limit(report),
        model=words.model(report),
        workload=provenance.workload(report.study.spec),
        verdict=words.verdict(report),
        trust=words.trust(report),
        facts=words.facts(report),
        stages=_stages(report),
        lost=report.losses,
        costs=_costs(report),
        parts=list(dict.fromkeys(p for e in compared(report) for p in e.row.costs.get("parts", {}))),
        hardware=next((h for e in report.entries if (h := e.row.costs.get("hardware"))), "no device"),
        disagreement=report.disagreement,
        looks=words.times(report.looks),
        caveats=words.caveats(report),
        provenance=_provenance(report),
        needs_processor=bool(report.policy and any(s.site == "input" for s in report.policy.stages)),
        download=base64.b64encode(text.encode()).decode(),
        policy_text=text,
    )


def _asset(name: str) -> Markup:
    return Markup(files("autotc.report").joinpath(name).read_text(encoding="utf-8"))


def _content_policy(style: str, script: str) -> str:
    """Allow this page's own style and script and nothing from anywhere else."""
    own = {
        kind: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for kind, text in (("style-src", style), ("script-src", script))
    }
    rules = {"default-src": "'none'", **own, "base-uri": "'none'", "form-action": "'none'"}
    return "; ".join(f"{kind} {allowed}" for kind, allowed in rules.items())


def _negative(found: Interval) -> Interval:
    """Turn a drop into a change."""
    low, high = (None if v is None else -v for v in (found.high, found.low))
    return replace(found, value=-found.value, low=low, high=high)


def _stages(report: Report) -> list[dict[str, Any]]:
    chosen, plain = report.recommended, report.uncompressed
    if chosen is None:
        return []
    tokens = plain.row.costs.get("entering_tokens") if plain else None
    return [
        {
            "where": SITES[stage.site] + ("" if stage.layer is None else f", before layer {stage.layer}"),
            "reducer": stage.reducer,
            "keep": stage.keep,
            "tokens": "" if tokens is None else f"{stage.keep * tokens:,.0f} of {tokens:,.0f}",
            "really": really,
            "params": ", ".join(f"{k} {v}" for k, v in stage.params.items()) or "none",
        }
        for stage, really in zip(chosen.member.policy.stages, kept(chosen), strict=True)
    ]


def _costs(report: Report) -> list[dict[str, Any]]:
    def row(costs: dict[str, Any]) -> dict[str, Any]:
        kv = costs.get("kv_bytes")
        return {
            "parts": costs.get("parts", {}),
            "exact": costs.get("tflops_exact"),
            "literature": costs.get("tflops_literature"),
            "memory": costs.get("memory_gib"),
            "kv": None if kv is None else kv / 2**20,
            "latency": costs.get("latency_ms"),
        }

    return [{"name": e.name, "chosen": e is report.recommended, **row(e.row.costs)} for e in compared(report)]


def _provenance(report: Report) -> list[tuple[str, str]]:
    spec = report.study.spec
    rows = [
        ("requests", provenance.workload(spec)),
        ("model", words.model(report)),
        ("evaluated on", report.study.evaluated_on),
        ("data", str(spec.get("data") or "built-in scenes")),
        ("data fingerprint", str(spec.get("data_fingerprint") or "not recorded")),
        ("search fingerprint", report.study.fingerprint),
        ("examples", _examples(spec)),
        ("seed", str(spec.get("seed", "not recorded"))),
    ]
    if report.policy is not None:
        rows.append(("policy id", report.policy.id))
    several = len(report.environments) > 1
    for made, count in report.environments:
        rows.append(("run with", f"{count} trials and references: {made}" if several else made))
    return [*rows, ("page written by", f"autotc {__version__}")]


def _examples(spec: Mapping[str, Any]) -> str:
    names = {"examples": "search", "selection_examples": "selection", "heldout_examples": "held-out"}
    asked = [f"up to {spec[key]} {split}" for key, split in names.items() if spec.get(key)]
    return ", ".join(asked) or "not recorded"
