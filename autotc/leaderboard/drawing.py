"""What a leaderboard shows: who is clearly better or worse than random tokens, the table and the picture."""

from __future__ import annotations

from collections.abc import Sequence

from autotc.calibration import named, verdict
from autotc.charts import DotChart, Dots
from autotc.leaderboard.board import Board, Row
from autotc.leaderboard.planning import BASELINES
from autotc.statistics import LEVEL, holm, p_of

QUESTIONS = 2  # of an image in the built-in scenes


def verdicts(board: Board) -> dict[tuple[str, float], str]:
    """Return better or worse than random tokens for the rows where that is clear, by (label, share).

    The p values of a budget come from the stored differences and standard errors and are corrected for all recipes
    measured at it (Holm). Degrees of freedom are those of two questions an image, as the built-in scenes have.
    """
    clear: dict[tuple[str, float], str] = {}
    for at in board.limits:
        rows = [
            (row, row.versus_random)
            for row in board.rows
            if row.share == at and row.reducer != "random" and row.versus_random is not None
        ]
        p = [p_of(value, error, n // QUESTIONS) for _, (value, error, n) in rows]
        for (row, (value, _, _)), adjusted in zip(rows, holm(p), strict=True):
            if adjusted < 1 - LEVEL:
                clear[row.label, at] = "better" if value > 0 else "worse"
    return clear


def picture(boards: Sequence[Board]) -> DotChart:
    """Return the picture of one or more boards: the main recipe of each method, best first."""
    panels = []
    for board in boards:
        whole = next(row for row in board.rows if row.policy is None)
        clear = verdicts(board)
        methods: dict[str, list[Dots]] = {}
        main: dict[str, str] = {}
        for row in board.rows:
            if row.policy is not None and main.setdefault(row.reducer, row.label) == row.label:
                methods.setdefault(row.label, []).append(
                    Dots(
                        f"{round(row.share * board.tokens)} tokens",
                        row.quality[0],
                        row.quality[1],
                        row.reducer == "random" or (row.label, row.share) in clear,
                    )
                )
        order = sorted(methods, key=lambda name: -gain(board, name))
        title = f"{board.model} costs,\nmeasured on {named(board.on)}"
        panels.append((title, {name: methods[name] for name in order}, ("uncompressed", whole.quality[0])))
    return DotChart(
        "Published methods at equal exact cost",
        "accuracy on held-out examples",
        panels,
        BASELINES,
        "not clearly other than random (Holm)",
    )


def table(boards: Sequence[Board]) -> str:
    """Return the boards as Markdown."""
    parts = []
    for board in boards:
        shares = sorted(board.limits, reverse=True)
        heads = [f"{round(s * board.tokens)} tokens ({board.limits[s]:,.0f} TFLOP)" for s in shares]
        lines = [
            f"## {board.model}, measured on {named(board.on)}",
            "",
            *([judged.text, ""] if (judged := verdict(board.on)) else []),
            f"Accuracy in %, held-out, n = {board.examples}; costs are exact TFLOP per 1,000 requests "
            f"({board.workload}), estimated for the full model; ± is one standard error, clustered by image; "
            "in brackets the paired difference from random tokens at the same budget, in points. ▲ clearly better, "
            "▼ clearly worse than random tokens: p < 0.05 after Holm's correction for all recipes at a budget "
            f"({_counts(board)}); without a mark the difference may be chance. Recipes stand by its mean over the "
            "budgets they reach.",
            "",
            "| recipe | fidelity | question-aware | " + " | ".join(heads) + " |",
            "|---|---|---|" + "---|" * len(shares),
        ]
        clear = verdicts(board)
        whole = next(row for row in board.rows if row.policy is None)
        lines.append(f"| uncompressed | | | {' | '.join([_cell(whole)] * len(shares))} |")
        rows = {(row.label, row.share): row for row in board.rows if row.policy is not None}
        names = {row.label: row for row in board.rows if row.policy is not None}
        for name in sorted(names, key=lambda name: -gain(board, name)):
            cells = [_cell(rows[name, s], clear.get((name, s))) if (name, s) in rows else "–" for s in shares]
            aware = "yes" if names[name].query_aware else "no"
            lines.append(f"| {name} | {names[name].fidelity} | {aware} | {' | '.join(cells)} |")
        reasons: dict[tuple[str, str], list[str]] = {}
        for label, share, reason in board.left_out:
            reasons.setdefault((label, reason), []).append(str(round(share * board.tokens)))
        lines += ["", "Left out:", ""]
        lines += [f"* {label} at {', '.join(at)} tokens: {reason}" for (label, reason), at in reasons.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def gain(board: Board, label: str) -> float:
    """Return the mean gain over random tokens at the budgets that a recipe reaches; few reach all of them."""
    rows = [row for row in board.rows if row.label == label and row.versus_random is not None]
    return sum(row.versus_random[0] for row in rows if row.versus_random) / max(1, len(rows))


def _counts(board: Board) -> str:
    """Say how many verdicts there are at each budget."""
    clear, parts = verdicts(board), []
    for at in sorted(board.limits, reverse=True):
        words = [word for (_, share), word in clear.items() if share == at]
        measured = sum(
            1 for r in board.rows if r.share == at and r.versus_random is not None and r.reducer != "random"
        )
        parts.append(
            f"at {round(at * board.tokens)} tokens {words.count('better')} better and {words.count('worse')} worse of "
            f"{measured}"
        )
    return "; ".join(parts)


def _cell(row: Row, verdict: str | None = None) -> str:
    value, error, _ = row.quality
    text = f"{100 * value:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")
    if row.versus_random is not None and row.reducer != "random":
        text += f" ({100 * row.versus_random[0]:+.1f} ± {100 * (row.versus_random[1] or 0):.1f})"
    return text + {"better": " ▲", "worse": " ▼"}.get(verdict or "", "")
