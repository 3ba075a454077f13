"""The page and the picture of `autotc bench ablation`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotc.errors import SpecError
from autotc.testbed.ablation import BASELINE, LISTED


def write(found: dict[str, Any], picture: str, made: str) -> str:
    """Return the page as Markdown.

    Args:
        found: from `ablate`.
        picture: file name of the picture.
        made: hardware and versions, in one line.
    """
    n = found["rows"][0]["n"]
    lines = [
        f"# What each freedom is worth, on `{found['on']}`",
        "",
        f"For {found['model']}. From the third on, each step may do all that the one above it may, and one thing more. "
        f"It is searched {found['seeds']} times on the test-bed ({found['status']}) with "
        f"{found['evaluations']:,} evaluations of an example each, by the same strategy, and knows the recipes as "
        f"published besides. The {LISTED} most promising within the exact cost of so many tokens are then run on {n} "
        f"selection examples, which neither the test-bed nor the search has seen, and the best of them on {n} held-out "
        "ones. Differences are paired, with 95 % intervals over images.",
        "",
        f"![Accuracy by step and budget]({picture})",
        "",
        *_tables(found),
        "The accuracy on the test-bed is that of its held-out part, mean of the searches ± one standard error. Where "
        "it lies above the one that was run, the test-bed was too kind to policies between those it has measured.",
        "",
        f"Made by `autotc bench ablation`; {made}.",
    ]
    return "\n".join(lines) + "\n"


def text(found: dict[str, Any]) -> str:
    """Return the tables, for a terminal."""
    return "\n".join(_tables(found)).rstrip() + "\n"


def _tables(found: dict[str, Any]) -> list[str]:
    lines = []
    for tokens in dict.fromkeys(r["tokens"] for r in found["rows"]):
        rows = [r for r in found["rows"] if r["tokens"] == tokens]
        lines += [
            f"## Exact cost of {tokens} tokens: {rows[0]['limit']:,.0f} TFLOP per 1,000 requests",
            "",
            "| step | accuracy, % | against the step above, points | against the tuned recipe, points "
            "| against smaller images, points | on the test-bed, % | TFLOP | policy |",
            "|---|---|---|---|---|---|---|---|",
            *(_row(r) for r in rows),
            "",
        ]
    return lines


def _row(r: dict[str, Any]) -> str:
    error = r["on_bed_stderr"]
    cells = [
        r["step"],
        f"{100 * r['quality']['value']:.1f}",
        _points(r["against_before"]),
        _points(r["against_tuned"]),
        _points(r["against_images"]),
        f"{100 * r['on_bed']:.1f}" + ("" if error is None else f" ± {100 * error:.1f}"),
        f"{r['cost']:,.0f}",
        r["policy"],
    ]
    return "| " + " | ".join(cells) + " |"


def _points(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["low"] is None:
        return f"{100 * found['value']:+.1f}"
    return f"{100 * found['value']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def draw(found: dict[str, Any], path: Path) -> None:
    """Write the picture as .png.

    Raises:
        SpecError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    budgets = list(dict.fromkeys(r["tokens"] for r in found["rows"]))
    figure = Figure(figsize=(3.6 * len(budgets) + 1.6, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    for axes, tokens in zip(panels, budgets, strict=True):
        rows = [r for r in found["rows"] if r["tokens"] == tokens]
        steps = [r for r in rows if r["step"] != BASELINE]
        for r in rows:
            if r["step"] == BASELINE:
                axes.axvline(100 * r["quality"]["value"], color="#D55E00", linewidth=1.2, linestyle="--")
        for y, r in enumerate(steps):
            q = r["quality"]
            axes.plot([100 * q["low"], 100 * q["high"]], [y, y], color="#0072B2", linewidth=1.6)
            axes.plot(100 * q["value"], y, "o", color="#0072B2", markersize=5)
        axes.set_yticks(range(len(steps)), [r["step"] for r in steps])
        axes.invert_yaxis()
        axes.set_title(f"cost of {tokens} tokens", loc="left", fontsize=10)
        axes.set_xlabel("accuracy, %  (95 % interval)")
        axes.grid(axis="x", color="#EEEEEE")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    panels[0].set_ylim(max(len(panels[0].get_yticks()), 1) - 0.5, -0.5)
    figure.text(0.995, 0.995, "dashed: smaller images", ha="right", va="top", fontsize=8, color="#D55E00")
    try:
        figure.savefig(path)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror or error}") from error
