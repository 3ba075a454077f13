"""What `picking.compare` found, as a section of the page and for a terminal."""

from __future__ import annotations

from typing import Any

WORDS = {
    "search": "highest on the search's examples",
    "selection": "highest on other examples (of the front of the search and what lies behind it, at most 12)",
    "one-se": "cheapest within one standard error of the next line's",
    "pooled": "highest on both together (of the same 12), which fronts and `autotc export` go by",
    "shrunk": "the same, drawn to the average at its cost (empirical Bayes)",
}


def section(found: dict[str, Any], heading: str = "## Picking a policy: the winner's curse") -> list[str]:
    """Return the lines of the section, as Markdown."""
    trials = [*(f"{t:.0f}" for t in found["trials"][:-1]), f"end ({found['trials'][-1]:.0f})"]
    worst = max(found["rules"], key=lambda r: r["rise"]["value"])
    kept = next(r for r in found["rules"] if r["rule"] == "pooled")
    return [
        heading,
        "",
        f"Of what `{found['strategy']}` has tried after so many trials, and the published recipes, each rule picks one "
        "policy for each budget. Regret: points below the best known on held-out examples, mean of the budgets and of "
        f"{found['seeds']} seeds; a negative one is bad luck of the best known. ± one standard error between seeds, "
        "which share their held-out examples. Optimism: the quality that was picked by, less that on held-out.",
        "",
        "| rule | "
        + " | ".join(f"regret at {t} trials" for t in trials)
        + " | optimism at the end | rise | gain |",
        "|---|" + "---|" * (len(trials) + 3),
        *(_row(rule) for rule in found["rules"]),
        "",
        "Rise: regret at the end less that where it was least, paired by seed; the least of several noisy means is "
        f"itself lucky, so a little is expected. The largest is of `{worst['rule']}`, {_pm(worst['rise'])} points. "
        "Gain: points less regret at the end than `selection` has, paired by seed; `pooled` has "
        f"{_pm(kept['less_than_selection'])}.",
    ]


def _row(rule: dict[str, Any]) -> str:
    regret = [
        _pm({"value": v, "stderr": e}) for v, e in zip(rule["regret"], rule["regret_stderr"], strict=True)
    ]
    optimism = {"value": rule["optimism"][-1], "stderr": rule["optimism_stderr"][-1]}
    cells = [
        f"`{rule['rule']}`: {WORDS[rule['rule']]}",
        *regret,
        *(_pm(x) for x in (optimism, rule["rise"], rule["less_than_selection"])),
    ]
    return "| " + " | ".join(cells) + " |"


def _pm(x: dict[str, Any]) -> str:
    error = "" if x["stderr"] is None else f" ± {100 * x['stderr']:.1f}"
    return f"{100 * x['value']:.1f}{error}"
