"""Figures and sentences of the page: each number with its unit, error, n, and where it was measured."""

from __future__ import annotations

import math

from autotc.policy import Number
from autotc.report.losses import Entry
from autotc.report.reading import Report
from autotc.search._claims import Claim
from autotc.statistics import Interval

MISSING = "not measured"


def tflop(value: float | None) -> str:
    """Write a cost with as many digits as its size deserves."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share of one as '91.4 %'."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def share(number: Number | None) -> str:
    """Write a measured share as '91.4 ± 2.6 %'."""
    if number is None or math.isnan(number.value):
        return MISSING
    error = "" if number.stderr is None else f" ± {100 * number.stderr:.1f}"
    return f"{100 * number.value:.1f}{error} %"


def signed(value: float) -> str:
    """Write a difference of shares in points, as '−3.1'."""
    text = f"{100 * value:+.1f}"
    return text.replace("-", "−") if float(text) else "0.0"


def points(found: Interval | None) -> str:
    """Write a difference of shares as '−3.1 [−6.0, −0.2]', in points."""
    if found is None or math.isnan(found.value):
        return MISSING
    if found.low is None or found.high is None:
        return f"{signed(found.value)} (one image only: no interval)"
    return f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"


def difference(claim: Claim) -> str:
    """Write what a claim found as '+20.3 [+10.4, +30.2]', in points."""
    return f"{signed(claim.difference)} [{signed(claim.low)}, {signed(claim.high)}]"


def band(found: Interval | None) -> str:
    """Write a share with its interval, as '91.4 [86.2, 96.6] %'."""
    if found is None or math.isnan(found.value):
        return MISSING
    if found.low is None or found.high is None:
        return percent(found.value)
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}] %"


def rho(found: Interval) -> str:
    """Write a correlation with its interval."""
    text = f"{found.value:+.2f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+.2f}, {found.high:+.2f}]"
    return text.replace("-", "−")


def p(value: float | None) -> str:
    """Write a p value."""
    if value is None or math.isnan(value):
        return "none"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def times(count: int) -> str:
    """Write how often."""
    return {0: "not once", 1: "once", 2: "twice"}.get(count, f"{count} times")


def model(report: Report) -> str:
    """Name the model that the policies are for."""
    return str(report.study.model.get("id") or report.study.spec.get("model") or "the model")


def limit(report: Report) -> str:
    """Say what the policies had to stay within."""
    view = report.view
    named = (
        []
        if view.limit is None
        else [f"{view.limit:,g} TFLOP per 1,000 requests ({_convention(view.convention)})"]
    )
    named += [str(c) for c in view.constraints if c.on_cost]
    return " and ".join(named) if named else "no limit"


def question(report: Report) -> str:
    """Ask what the study answers."""
    within = "" if report.view.limit is None else f" within {report.view.limit:,g} TFLOP per 1,000 requests"
    return f"Which visual tokens can {model(report).split('/')[-1]} do without{within}?"


def verdict(report: Report) -> list[str]:
    """Say in at most three sentences what to take, what it costs and what it loses."""
    chosen, why = report.recommended, report.recommendation
    if chosen is None or why is None:
        return [f"There is nothing to recommend yet: no finished trial stays within {limit(report)}."]
    name = f"trial {chosen.member.trial} ({chosen.member.policy.describe()})"
    if not why.recommended:
        wanted = " and ".join(str(c) for c in why.constraints)
        first = f"Nothing is recommended: no member of the front meets {wanted}. The nearest is {name}: it"
    elif report.demo:
        first = f"Best on the proxy is {name}, which is no recommendation for {model(report)} yet: it"
    else:
        first = f"Take {name}: it"
    return [f"{first} {_price(report, chosen)}.", _quality(report, chosen)]


def trust(report: Report) -> list[str]:
    """Say on what the quality was measured, and what that is worth."""
    full = model(report)
    found = report.calibration
    if report.proxy is None or found is None:
        on = report.study.evaluated_on
        return [f"Quality was measured by running {on}. Costs are estimates for {full}."]
    said = [
        f"Quality was measured on the proxy {report.proxy}, a small trained model of the same architecture, not on "
        f"{full}. It compares policies; it does not say how accurate {full} will be. Costs are estimates for {full}.",
        found.text,
    ]
    return said


def facts(report: Report) -> list[tuple[str, str, str]]:
    """Return name, value and what belongs to it of the figures that matter most."""
    chosen, plain, lost = report.recommended, report.uncompressed, report.losses
    if chosen is None:
        return []
    number, found = chosen.member.number("quality"), []
    if number is not None:
        error = "" if number.stderr is None else f"± {100 * number.stderr:.1f} (standard error), "
        found.append(
            (f"{number.unit}, {number.split}", percent(number.value), f"{error}n {number.n}, measured")
        )
    if lost is not None:
        found.append(("change, points", signed(lost.change.value), _interval(lost.change)))
        if len(lost.groups) > 1:
            worst = lost.groups[0]
            found.append(
                ("largest drop of a group", signed(-worst.drop.value), f"{worst.group}, n {worst.n}")
            )
    of = "" if plain is None else f"{percent(chosen.cost / plain.cost, 0)} of {tflop(plain.cost)}, "
    found.append(("TFLOP exact", tflop(chosen.cost), f"{of}estimated"))
    counted = report.view.limit is not None and report.view.convention == "literature"
    within = f"limit {report.view.limit:,g}, " if counted else ""
    found.append(("TFLOP literature", tflop(chosen.member.value("tflops_literature")), f"{within}estimated"))
    tokens = "" if plain is None else f"of {plain.member.value('visual_tokens'):,.0f}, "
    found.append(
        ("visual tokens", f"{chosen.member.value('visual_tokens'):,.0f}", f"{tokens}mean of the layers")
    )
    return found


def caveats(report: Report) -> list[str]:
    """Say what stands between these figures and a decision."""
    said = list(trust(report))
    if report.proxy:
        said.append(
            report.ceiling.text
            if report.ceiling
            else "Nobody has measured how far small models of this family that differ in their seed alone agree, so "
            "nothing is known of how far an order of policies carries over to another model."
        )
    said.append(
        f"Held-out data were looked at {times(report.looks)} in this study; trials are found on the search split, the "
        "front is confirmed on selection, claims are made on held-out."
    )
    number = report.recommended.member.number("quality") if report.recommended else None
    if number is not None and number.split != "held-out":
        said.append(
            f"The recommended policy was not measured on held-out data. Its {number.split} figure helped to choose it, "
            "so it is probably too good."
        )
    if number is not None and number.unit == "agreement":
        said.append(
            "The data has no answers: quality is agreement with the uncompressed model, not correctness."
        )
    return said


def _interval(found: Interval) -> str:
    if found.low is None or found.high is None:
        return "no interval: one image"
    return f"95 % [{signed(found.low)}, {signed(found.high)}]"


def _convention(name: str) -> str:
    return "the papers' count" if name == "literature" else "as executed"


def _price(report: Report, chosen: Entry) -> str:
    member, plain = chosen.member, report.uncompressed
    tokens, of = f"{member.value('visual_tokens'):,.0f}", ""
    if plain is not None:
        tokens += f" of {plain.member.value('visual_tokens'):,.0f}"
        of = f", {percent(chosen.cost / plain.cost, 0)} of the uncompressed model"
    literature = tflop(member.value("tflops_literature"))
    return (
        f"keeps {tokens} visual tokens in the mean layer and costs {tflop(chosen.cost)} TFLOP per 1,000 requests as "
        f"executed{of} ({literature} by the papers' count; estimates)"
    )


def _quality(report: Report, chosen: Entry) -> str:
    number = chosen.member.number("quality")
    if number is None:
        return "Its quality was not measured."
    has = (
        "It agrees with the uncompressed model on" if number.unit == "agreement" else f"Its {number.unit} is"
    )
    text = f"{has} {share(number)} (standard error) on {number.n} {number.split} examples"
    lost = report.losses
    if lost is not None and lost.split == number.split:
        text += f", {points(lost.change)} points against the uncompressed model on the same examples"
    return f"{text}, measured on {number.on}."
