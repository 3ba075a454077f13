"""The study as Markdown: verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autotc.calibration.analysis import ALPHA
from autotc.calibration.published import NAMES, SOURCES

MARK = {1.0: "yes", 0.0: "**no**", 0.5: "tie"}
HEADS = {
    True: "passed",
    False: "**failed**: a mechanics demo",
    None: "not tested on its family: a mechanics demo",
}


def write(study: dict[str, Any], picture: str) -> str:
    """Return the page.

    Args:
        study: from `study.calibration`.
        picture: file name of the picture beside it.
    """
    proxies = study["proxies"]
    parts = [
        "# How far the proxies can be trusted",
        "Published methods were run on the small built-in models and compared with result tables that others printed "
        "for real ones. The test was written down before its results: [PROTOCOL.md](PROTOCOL.md). This page is written "
        "by `autotc bench calibrate`; `--analyse-only` makes it again from the outcomes beside it and runs nothing.",
        "## Verdict",
        "\n".join(f"* {found['text']}" for found in proxies.values()),
        _plainly(study),
        _power(study),
        _why(study),
        "## The test",
        _test(study),
        f"![Published against proxy retention]({picture})",
        "## Pair by pair",
        _pairs(study),
        _summary(study),
        "## What the published tables agree on themselves",
        _tables(study),
        "## What needs no model: trivial predictors",
        _predictors(study),
        "## Ranks",
        _ranks(study),
        "## Retention",
        _retention(study),
        _errors(study),
        "## What was run",
        _run(study),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def percent(found: dict[str, Any], n: bool = True) -> str:
    """Return a share as text: value, interval, n."""
    if not found["n"]:
        return "–"
    text = f"{100 * found['value']:.0f} %"
    if found["low"] is not None:
        text += f" [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"
    return text + (f", n = {found['n']}" if n else "")


def points(found: dict[str, Any]) -> str:
    """Return a figure in points as text."""
    if not found["n"]:
        return "–"
    text = f"{found['value']:.1f}"
    return text + (f" [{found['low']:.1f}, {found['high']:.1f}]" if found["low"] is not None else "")


def table(head: list[str], rows: list[list[str]], left: Sequence[int] = ()) -> str:
    """Return a Markdown table; columns stand on the right but for the first and those named."""
    rule = ["---" if i == 0 or i in left else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def _plainly(study: dict[str, Any]) -> str:
    demos = [name for name, found in study["proxies"].items() if not found["passed"]]
    if not demos:
        return (
            "What a passed test does not say: it is about pairs of published methods, not about every policy."
        )
    return (
        f"What that means for a user: numbers measured on {' and '.join(demos)} show that a policy runs, what it keeps "
        "and what it costs. They do not say which method is better on a real model, and autotc recommends none on "
        "their word. Measure on the real weights (`autotc verify`, `autotc search --evaluate-on full`) before use."
    )


def _power(study: dict[str, Any]) -> str:
    found = next(iter(study["proxies"].values()))["test"]
    pairs, methods = found["concordance"]["n"], found["concordance"]["clusters"]
    told = ", ".join(f"p = {p:.3f} with {right} right" for right, p in found["power"])
    enough = [right for right, p in found["power"] if p < ALPHA]
    least = f"at least {min(enough)} of {pairs} must be right" if enough else "no order can pass"
    return (
        f"What {pairs} pairs over {methods} methods can show is little. An order of the methods that is the same at "
        f"all budgets has {told}: {least}. So failing means that a proxy's worth has not been shown, not that its "
        "order is worthless. The tables support no sharper test: independent measurements of the same methods are few "
        "and contradict each other."
    )


def _why(study: dict[str, Any]) -> str:
    told = []
    for name, found in study["proxies"].items():
        worst = sorted(found["family_tables"]["error"].items(), key=lambda item: -item[1]["value"])[:3]
        said = ", ".join(f"{method} {error['value']:.0f}" for method, error in worst)
        told.append(f"on {name} {said}")
    return (
        "Where proxies and tables are furthest apart (mean absolute difference of retention, points): "
        + "; ".join(told)
        + ". Probably because the generated scenes ask for small things in all places, so "
        "that tokens left out without looking cost far more than on the papers' benchmarks. The generator was not "
        "tuned to change that."
    )


def _test(study: dict[str, Any]) -> str:
    proxies = study["proxies"].values()
    rows: list[list[str]] = [
        ["tested on the pairs of", *(f["tested_on"] for f in proxies)],
        [
            "pairs, methods",
            *(f"{f['test']['concordance']['n']}, {f['test']['concordance']['clusters']}" for f in proxies),
        ],
        [
            "1. concordance (needed: at least 80 %)",
            *(percent(f["test"]["concordance"], n=False) for f in proxies),
        ],
        ["2. p against shuffled labels, alone", *(f"{f['test']['p']:.3g}" for f in proxies)],
        [
            "   after Holm's correction over the proxies tested on their family (needed: below 0.05)",
            *(f"{f['p']:.3g}" for f in proxies),
        ],
        ["3. held-out sources agree with the others", *(percent(f["test"]["ceiling"]) for f in proxies)],
        [
            "   the proxy on the same cases (needed: at least that interval's lower end)",
            *(percent(f["test"]["on_ceiling"], n=False) for f in proxies),
        ],
        ["met", *(", ".join(k for k, met in f["criteria"].items() if met) or "none" for f in proxies)],
        ["verdict", *(HEADS[f["passed"]] for f in proxies)],
    ]
    first = next(iter(proxies))["test"]
    how = "all" if first["exact"] else "drawn"
    return (
        table(["", *study["proxies"]], rows)
        + "\n\nIn brackets 95 % intervals, by resampling methods (pairs that share a method are not independent). "
        f"p: {first['shuffles']:,} relabellings of the methods, {how}. The third bar is low "
        "because its interval is wide: few methods stand in several tables."
    )


def _pairs(study: dict[str, Any]) -> str:
    names = list(study["proxies"])
    at = {
        name: {(p["budget"], p["winner"], p["loser"]): p for p in found["all_tables"]["pairs"]}
        for name, found in study["proxies"].items()
    }
    rows = []
    for key, pair in at[names[0]].items():
        mine = [at[name].get(key) for name in names]
        cells = [f"{p['proxy'][0]:.1f} / {p['proxy'][1]:.1f}, {MARK[p['right']]}" if p else "–" for p in mine]
        who = ", ".join(SOURCES[s] for s in pair["sources"])
        rows.append([f"{pair['winner']} over {pair['loser']}", NAMES[key[0]], who, *cells])
    return (
        "The yardstick: what at least two sources decide one way and none the other way. Beside it the proxy's "
        "retention of both in %, and whether it has the same one ahead.\n\n"
        + table(["pair", "tokens", "decided by", *names], rows, left=(2,))
    )


def _summary(study: dict[str, Any]) -> str:
    lines = []
    for name, found in study["proxies"].items():
        pairs = found["test"]["pairs"]
        for word, value in (("Confirmed", 1.0), ("Not confirmed", 0.0)):
            told = [
                f"{p['winner']} over {p['loser']} ({NAMES[p['budget']]})"
                for p in pairs
                if p["right"] == value
            ]
            lines.append(f"* {word} on {name} ({len(told)}): {'; '.join(told) or 'none'}.")
    return "\n".join(lines)


def _tables(study: dict[str, Any]) -> str:
    rows = [
        [
            name,
            str(found["tables"]),
            ", ".join(SOURCES[s] for s in found["sources"]),
            str(found["duels"]),
            str(found["decided"]),
            str(found["yardstick"]),
            str(len(found["contradicted"])),
        ]
        for name, found in study["published"].items()
    ]
    text = table(
        ["models", "tables", "sources", "comparisons", "decided", "yardstick pairs", "decided both ways"],
        rows,
    )
    against = study["published"]["all models"]["contradicted"]
    text += (
        "\n\nDecided both ways: "
        + "; ".join(f"{a} and {b} ({NAMES[budget]})" for budget, a, b in against)
        + "."
    )
    first_name, first = next(iter(study["proxies"].items()))
    cells = [
        [budget, percent(theirs), percent(mine)]
        for budget, (theirs, mine) in first["test"]["ceiling_by_budget"].items()
    ]
    return (
        f"{text}\n\nA held-out source against what the others decide, and {first_name} on the same cases:\n\n"
        + table(["tokens", "held-out source", first_name], cells)
    )


def _predictors(study: dict[str, Any]) -> str:
    proxies = study["proxies"]
    keys = next(iter(proxies.values()))["test"]["predictors"]
    rows = [[key, *(percent(f["test"]["predictors"][key]) for f in proxies.values())] for key in keys]
    rows += [
        [
            f"yardstick with {float(k):.0%} of the columns: the proxy",
            *(percent(f["test"]["sensitivity"][k]) for f in proxies.values()),
        ]
        for k in next(iter(proxies.values()))["test"]["sensitivity"]
    ]
    rows += [
        [
            f"pairs that {SOURCES[s]} alone decides: the proxy",
            *(percent(f["all_tables"]["by_source"].get(s, {"n": 0})) for f in proxies.values()),
        ]
        for s in next(iter(proxies.values()))["all_tables"]["by_source"]
    ]
    newer = next(iter(proxies.values()))["test"]["predictors"]["newer is better, yardstick"]
    note = (
        f"The date of a method's first version orders {percent(newer)} of the yardstick: agreement with these pairs "
        "alone is what knowing the calendar gives, and a proxy has to be at least as good to add anything."
    )
    return table(["", *proxies], rows) + "\n\n" + note


def _ranks(study: dict[str, Any]) -> str:
    rows = []
    for name, found in study["proxies"].items():
        for r in found["family_tables"]["rankings"]:
            exact = "" if r["exact"] else " (asymptotic)"
            rows.append(
                [
                    name,
                    r["table"],
                    NAMES[r["budget"]],
                    str(r["methods"]),
                    f"{r['tau']:+.2f}",
                    f"{r['p']:.2f}{exact}",
                    f"{r['p_holm']:.2f}",
                ]
            )
    return (
        "Kendall's tau-b between the proxy's order and a table's, tables of its family with at least four methods, "
        "exact two-sided p, alone and with Holm's correction over a proxy's rows. A tau of so few methods is "
        "coarse.\n\n"
        + table(["proxy", "table", "tokens", "methods", "tau", "p", "p (Holm)"], rows, left=(1,))
    )


def _retention(study: dict[str, Any]) -> str:
    parts = []
    for name, found in study["proxies"].items():
        budgets = list(NAMES)
        mine = {(r["method"], r["budget"]): r for r in found["retention"]}
        rows = []
        for method in dict.fromkeys(m for m, _ in mine):
            cells = []
            for b in budgets:
                theirs = [
                    m["published"]
                    for m in found["family_tables"]["published"]
                    if (m["method"], m["budget"]) == (method, b)
                ]
                told = " / ".join(f"{t:.0f}" for t in sorted(theirs)) or "–"
                figure = mine.get((method, b))
                cells.append(f"{points(figure)} ({told})" if figure else "–")
            rows.append([method, *cells])
        parts.append(
            f"### {name}\n\nRetention in % of the uncompressed proxy ({100 * found['full']:.1f} % right; "
            f"{100 * found['blind']:.1f} % without visual tokens) with its 95 % interval, n = {found['examples']} "
            f"questions on {found['images']} images; in brackets what independent rows print for models of its "
            "family.\n\n" + table(["method", *NAMES.values()], rows)
        )
    return "\n\n".join(parts)


def _errors(study: dict[str, Any]) -> str:
    rows = []
    for name, found in study["proxies"].items():
        mine = found["family_tables"]
        bias = "–" if mine["bias"] is None else f"{mine['bias']:+.1f}"
        rows.append([name, "all", points(mine["error_all"]), str(mine["error_all"]["n"]), bias])
        rows += [[name, k, points(v), str(v["n"]), ""] for k, v in mine["error_by_budget"].items()]
        rows += [
            [name, k, points(v), str(v["n"]), ""]
            for k, v in sorted(mine["error"].items(), key=lambda item: -item[1]["value"])
        ]
        rows.append(
            [
                name,
                "two sources from one another",
                points(mine["error_between_sources"]),
                str(mine["error_between_sources"]["n"]),
                "",
            ]
        )
    return (
        "### Retention error\n\nMean absolute difference between the proxy's retention and the published one, in "
        "points, with 95 % intervals by resampling methods.\n\n"
        + table(["proxy", "of", "error", "n", "mean (proxy - published)"], rows)
    )


def _run(study: dict[str, Any]) -> str:
    rows = [
        [m["name"], f"`{m['reducer']}`", ", ".join(m["presets"]) or "–", m["since"] or "–", m["how"] or "–"]
        for m in study["methods"]
    ]
    head = ["name in the tables", "reducer", "recipe", "first version (yymm)", "how"]
    text = "\n".join("| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows])
    missing = "\n".join(f"* {name}: {why}" for name, why in study["unmapped"].items())
    held = "\n".join(
        f"* {name}: generator `{f['frozen']['generator']}`, digits `{f['frozen']['digits']}`, "
        f"weights `{f['frozen']['weights']}`; {f['examples']} questions from seed {f['first_seed']:,}"
        for name, f in study["proxies"].items()
    )
    return (
        f"{text}\n\nNot run, with the reason:\n\n{missing}\n\nThe result holds for these hashes; with others the "
        f"calibration has to be run again, and until then the proxy counts as not calibrated:\n\n{held}"
    )
