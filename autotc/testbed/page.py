"""The page of `autotc bench search`: what it rests on, the table, how it was made."""

from __future__ import annotations

from typing import Any

from autotc.testbed import picking_page

MEANING = {"at least": "is at least this", "at most": "is at most this", "either": "may be larger or smaller"}


def write(found: dict[str, Any], picture: str, made: str) -> str:
    """Return the page as Markdown.

    Args:
        found: from `study`.
        picture: file name of the picture.
        made: hardware and versions, in one line.
    """
    budgets = list(found["best_at"])
    examples, surrogate = found["examples"], found["surrogate"]
    lines = [
        "# Strategies of the search on a test-bed",
        "",
        f"**Test-bed {found['status']}.**",
        "",
        f"{found['policies']['measured']:,} policies, {found['policies']['presets']} of them published recipes, for "
        f"{found['model']} ({found['workload']}), answers measured on `{found['on']}`. Searches stay below "
        f"{found['limit']['tflops']:,.0f} TFLOP per 1,000 requests ({found['limit']['convention']}), the cost of 192 "
        f"of 576 tokens. They see {examples['search']} examples; policies are picked by these and "
        f"{examples['selection']} others; every figure below is on {examples['held-out']} held-out ones "
        f"({found['images']['held-out']} images), which all strategies share: the errors given are between seeds, and "
        "do not count that other examples would move all strategies together.",
        "",
        f"![Gap closed against evaluations]({picture})",
        "",
        f"Means of {found['seeds']} seeds, ± one standard error over seeds; each search could evaluate "
        f"{found['evaluations']:,} examples. *Gap closed*: area under held-out accuracy over exact cost, 0 is that of "
        "all published recipes, 1 the best known. *To 90 %*: median evaluations of an example until nine tenths of the "
        "gap are closed, and in how many seeds they were. *Regret*: points of accuracy below the best known at the "
        "exact cost of so many tokens. *Distance* of proposals from the policies that were measured, in units of that "
        "between these.",
        "",
        *_table(found, budgets),
        "",
        *_ratios(found),
        "Published recipes pick "
        + ", ".join(f"{_percent(found['presets_at'][b])} at {b} tokens" for b in budgets)
        + "; the best known "
        + ", ".join(f"{_percent(found['best_at'][b])}" for b in budgets)
        + ".",
        "",
        *picking_page.section(found["picking"]),
        "",
        "## How far to trust it",
        "",
        "What lies between the measured policies is drawn from a Gaussian process over cost, tokens alive by depth and "
        f"methods by site. Of {surrogate['n']:,} policies, each left out in turn, it orders the measured accuracy with "
        f"a rank correlation of {surrogate['rank']:.2f}, and {surrogate['rank_equal_cost']:.2f} among policies of "
        f"about equal cost; its error is {100 * surrogate['error']:.1f} points, of which "
        f"{100 * surrogate['sampling']:.1f} is the sampling of examples; the rest, {100 * surrogate['offset']:.1f}, is "
        "the spread that drawn answers get. "
        "Drawn answers of two close policies differ more than real ones would, so racing stops fewer of them.",
        "",
        "Published strategies run as reconstructions of their papers, and only as far as a score on examples can tell: "
        "see `autotc/search/strategies/`. Fits to hidden states need a model and are not in this table; `fitprune` "
        "fits attention that was measured once (`autotc bench attention`), and is charged the examples of that. "
        "What a live study with the same strategy does: `autotc search --strategy NAME`.",
        "",
        f"Made by `autotc bench testbed` and `autotc bench search`; {made}.",
    ]
    return "\n".join(lines) + "\n"


def table(found: dict[str, Any]) -> str:
    """Return the table and what must be said beside it, for a terminal."""
    budgets = list(found["best_at"])
    return (
        "\n".join(
            [
                f"Test-bed {found['status']}",
                "",
                *_table(found, budgets),
                "",
                *_ratios(found),
                *picking_page.section(found["picking"]),
            ]
        ).rstrip()
        + "\n"
    )


def _table(found: dict[str, Any], budgets: list[str]) -> list[str]:
    return [
        "| strategy | gap closed | to 90 % | "
        + " | ".join(f"regret at {b}" for b in budgets)
        + " | trials | over the limit | between the policies | distance | ms a proposal |",
        "|---|---|---|" + "---|" * (len(budgets) + 5),
        *(_row(s, budgets) for s in found["strategies"]),
    ]


def _row(s: dict[str, Any], budgets: list[str]) -> str:
    target = s["evaluations_to_target"]
    reached = f"{target:,.0f} " if target is not None else "not reached "
    cells = [
        s["strategy"],
        _pm(s["gap_closed"], s["gap_closed_stderr"], 1, 2),
        f"{reached}({s['reached_target']} of {s['seeds']})",
        *(_pm(s["regret_at"][b], s["regret_at_stderr"][b], 100, 1) for b in budgets),
        f"{s['trials']:.0f}" + (" (nothing more to propose)" if s["exhausted"] else ""),
        str(s["over_the_limit"]),
        f"{s['off_lattice']:.0f}",
        f"{s['distance']:.1f}",
        f"{s['ask_ms']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _ratios(found: dict[str, Any]) -> list[str]:
    """Return how many evaluations the default needs, as shares of what rivals need or use."""
    lines = [*_to_target(found), *_to_rivals_end(found)]
    if lines and found["seeds"] > 1:
        lines += ["Intervals are of 95 %, over seeds; the two searches of a seed are resampled together.", ""]
    return lines


def _to_target(found: dict[str, Any]) -> list[str]:
    if not found["ratios"]:
        return []
    best, *others = found["ratios"]
    text = (
        f"To 90 % of the gap the default needs {_interval(best)} of the evaluations of {best['rival']}, the quickest "
        f"rival (means {best['own']:,.0f} and {best['theirs']:,.0f})."
    )
    missing = [(best["own_censored"], "the default"), (best["theirs_censored"], best["rival"])]
    if parts := [f"{n} of {best['seeds']} of {name}" for n, name in missing if n]:
        text += (
            f" Searches that do not get there count as all {found['evaluations']:,} ({' and '.join(parts)}): with "
            f"what they would need the ratio {MEANING[best['bound']]}."
        )
    lines = [text, ""]
    if others:
        rest = ", ".join(f"{r['rival']} {_interval(r)}{_missing(r)}" for r in others)
        lines += [f"Of the others' (in brackets: searches of theirs that do not get there): {rest}.", ""]
    return lines


def _to_rivals_end(found: dict[str, Any]) -> list[str]:
    end = found["ratio_to_rivals_end"]
    if end is None:
        return []
    if end["reached"]:
        after = f"has as much after {end['own']:,.0f} evaluations: {_interval(end)}"
    else:
        after = f"does not get there with all {end['own']:,.0f} evaluations: at least {_interval(end)}"
    return [
        f"The best rival at the end, {end['rival']}, closes {end['gap_closed']:.2f} of the gap; the default's mean "
        f"curve {after} of the {end['theirs']:,.0f} that {end['rival']} used.",
        "",
    ]


def _interval(ratio: dict[str, Any]) -> str:
    limits = "" if ratio["low"] is None else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return f"{ratio['ratio']:.2f}{limits}"


def _missing(ratio: dict[str, Any]) -> str:
    return f" ({ratio['theirs_censored']} of {ratio['seeds']})" if ratio["theirs_censored"] else ""


def _pm(value: float | None, error: float | None, scale: float, digits: int) -> str:
    if value is None:
        return "not measured"
    text = f"{scale * value:.{digits}f}"
    return text if error is None else f"{text} ± {scale * error:.{digits}f}"


def _percent(value: float | None) -> str:
    return "nothing" if value is None or value != value else f"{100 * value:.1f} %"
