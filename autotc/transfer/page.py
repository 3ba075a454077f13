"""The study as Markdown: what may be claimed first, then what it rests on."""

from __future__ import annotations

from typing import Any

from autotc.transfer import make

RULES = {
    "relative": "relative depth",
    "attention": "by visual attention",
    "withdrawal": "by withdrawal KL",
}


def write(study: dict[str, Any], picture: str) -> str:
    """Return the page.

    Args:
        study: from `study.study`.
        picture: file name of the picture beside it.
    """
    parts = [
        "# How far one proxy speaks for another",
        "A proxy orders policies; does another model order them alike? The most favourable case is a model that "
        "differs in nothing but the random numbers of its training. What such twins reach is the ceiling on what any "
        "proxy can say about a model, and autotc prints it beside a proxy's figures. This page is written by "
        "`autotc bench transfer`; without `--model` it is made again from the outcomes beside it and runs nothing.",
        "## What may be claimed",
        "\n".join(f"* {make(family, **found).text}" for family, found in study["ceilings"].items()),
        f"![Rank correlations and the function of depth]({picture})",
        "## Rank correlation of policies",
        _how(study),
        _groups(study),
        "By budget (share of the tokens that random tokens of the same cost would keep), Spearman, mean over pairs:",
        _by_budget(study),
        "Every pair:",
        _pairs(study),
        "## What a choice is worth",
        "The best policy of a budget on one model, looked at on the other, mean over budgets and both directions. "
        "The loss is an upper bound: the other model's best is the best of the budget on the very examples it is "
        "judged on.",
        _choice(study),
        "## The models",
        _models(study),
        *(("## Leaderboards of the shipped proxies", _boards(study)) if study["leaderboard"] else ()),
        *(("## Which depth is which", _depth(study)) if study["depth"]["pairs"] else ()),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; all columns but the first stand on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _range(limits: list[float] | tuple[float, float]) -> str:
    return f"{limits[0]:.2f} to {limits[1]:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.2f}"


def _how(study: dict[str, Any]) -> str:
    budgets = ", ".join(f"{float(share):.0%}" for share in sorted(study["budgets"], reverse=True))
    each = sorted(set(study["budgets"].values()))
    enlarged = any(m["model"] == "llava-tiny" for m in study["models"])
    return (
        f"{study['policies']} policies, {'/'.join(map(str, each))} at each of {len(study['budgets'])} budgets "
        f"({budgets} of the tokens, at equal exact cost within 3 % for the full model of each family), drawn from the "
        "search space over all sites below the input, with every reducer, and from the published recipes; the same "
        "policies for both families, depths by the share of layers before them, the last keep solved to the budget. "
        f"Each was run on the same {study['examples']} questions about {study['images']} scenes of 64 visual tokens"
        + (" (144 on llava-tiny, which enlarges them)" if enlarged else "")
        + ". *Equal cost* compares policies of one budget only and averages over budgets: there the budget carries "
        "nothing, and it is what choosing a method needs. *All costs* mostly says that fewer tokens are worse "
        "everywhere. Intervals are 95 %, on Fisher's scale with bootstrap errors over policies, over images, and over "
        "both; they do not cover which seeds were drawn. *Corrected* takes away the "
        "noise of the examples: the correlation between halves with no scene in common over what each model's own "
        "halves reach. It may pass 1. *By KL* orders policies by the mean KL from the uncompressed model instead of by "
        "right answers, at equal cost; examples blur it less."
    )


def _groups(study: dict[str, Any]) -> str:
    rows = []
    for name, group in study["groups"].items():
        equal, every = group["equal_cost"], group["all_costs"]
        rows.append(
            [
                name,
                str(len(group["pairs"])),
                f"**{equal['value']:.2f}**",
                _range(equal["over_policies"]),
                _range(equal["over_examples"]),
                _range(equal["interval"]),
                _number(equal["corrected"]),
                _number(group["kendall_equal_cost"]),
                _number(group["kl_equal_cost"]),
                _number(every["value"]),
                _range(every["interval"]),
                _number(every["corrected"]),
                _number(group["kendall"]),
            ]
        )
    head = [
        "models",
        "pairs",
        "Spearman, equal cost",
        "over policies",
        "over images",
        "over both",
        "corrected",
    ]
    return table(
        [*head, "Kendall", "by KL", "Spearman, all costs", "over both", "corrected", "Kendall"], rows
    )


def _by_budget(study: dict[str, Any]) -> str:
    shares = sorted(study["budgets"], reverse=True)
    rows = [
        [name, *(_number(group["by_budget"][s]) for s in shares)] for name, group in study["groups"].items()
    ]
    return table(["models", *(f"{float(s):.0%}" for s in shares)], rows)


def _pairs(study: dict[str, Any]) -> str:
    rows = [
        [
            " and ".join(pair["models"]),
            _number(pair["spearman_equal_cost"]),
            _number(pair["kendall_equal_cost"]),
            _number(pair["spearman"]),
            _number(pair["kendall"]),
        ]
        for group in study["groups"].values()
        for pair in group["pairs"]
    ]
    return table(["models", "Spearman, equal cost", "Kendall", "Spearman, all costs", "Kendall"], rows)


def _choice(study: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{100 * found['loss']:.1f}",
            f"{100 * found['best_over_median']:.1f}",
            f"{100 * found['beats']:.0f} %",
        ]
        for name, group in study["groups"].items()
        for found in (group["choice"],)
    ]
    return table(
        ["models", "points below its best", "points from median to best", "of the other policies beaten"],
        rows,
    )


def _models(study: dict[str, Any]) -> str:
    rows = [
        [
            m["model"],
            f"{100 * m['full']:.1f}",
            f"{100 * m['blind']:.1f}",
            f"{100 * m['policies_from']:.1f} to {100 * m['policies_to']:.1f}",
            f"{100 * m['spread_equal_cost']:.1f}",
            _number(m["reliability_equal_cost"]),
            _number(m["reliability"]),
            f"{m['training']['steps']:,}" if m["training"] else "shipped",
            f"{m['training']['images']:,}" if m["training"] else "",
        ]
        for m in study["models"]
    ]
    text = (
        "Accuracy in %, measured on these scenes. *Spread* is the standard deviation of accuracy among policies of one "
        "budget, in points. *Reliability* is the rank correlation that a second sample of as many questions would have "
        "with this one on the same model (split halves, Spearman and Brown): no pair of models can be expected to pass "
        "it by much. The small models have the depth of the shipped ones and were trained on small scenes by "
        "`python -m autotc.proxies.train FAMILY-small --processes 1 --steps STEPS --seed N`, other scenes for each "
        "seed; their weights are not kept. They answer far fewer questions than the shipped ones: twins trained as "
        "long as those may agree better."
    )
    head = [
        "model",
        "uncompressed",
        "without image",
        "policies",
        "spread",
        "reliability, equal cost",
        "all costs",
        "steps",
        "images seen",
    ]
    return text + "\n\n" + table(head, rows)


def _boards(study: dict[str, Any]) -> str:
    lines = []
    for board in study["leaderboard"]:
        by = ", ".join(
            f"{float(share):.0%} {value:.2f}"
            for share, value in sorted(board["by_budget"].items(), reverse=True)
        )
        lines.append(
            f"{' and '.join(board['models'])} on full scenes, {board['rows']} rows of the "
            f"[leaderboard](../leaderboard/README.md) that both hold: Spearman {board['spearman_equal_cost']:.2f} at "
            f"equal cost ({by} of the tokens), {board['spearman']:.2f} over all; Kendall "
            f"{board['kendall_equal_cost']:.2f} at equal cost."
        )
    return "\n\n".join(lines)


def kept_rule(study: dict[str, Any]) -> tuple[str, str]:
    """Return which mapping of depths stays, and sentences with the figures.

    Depths travel only between a proxy and the model of its own family, so pairs of one family decide where there are
    any. A mapping by function replaces the relative one where it gains on average over pairs, and clearly so (its whole
    interval above 0) on most of them.
    """
    pairs = study["depth"]["pairs"]
    own = [p for p in pairs if p["same_family"]]
    across = [p for p in pairs if not p["same_family"]]
    means, clear, said = {}, {}, []
    for name, some in (("Across families", across), ("Within a family", own)):
        if not some:
            continue
        means = {rule: sum(p["rules"][rule]["value"] for p in some) / len(some) for rule in RULES}
        clear = {rule: sum(p["rules"][rule]["gain_low"] > 0 for p in some) / len(some) for rule in RULES}
        figures = [f"{RULES['relative']} {means['relative']:.2f}"]
        figures += [
            f"{RULES[rule]} {means[rule]:.2f} (clearly better on {round(clear[rule] * len(some))} of {len(some)} pairs)"
            for rule in RULES
            if rule != "relative"
        ]
        said.append(f"{name}, mean rank correlation: {', '.join(figures)}.")
    better = [r for r in RULES if r != "relative" and means[r] > means["relative"] and clear[r] > 0.5]
    kept = max(better, key=lambda r: means[r]) if better else "relative"
    verdict = (
        "Relative depth stays the rule" if kept == "relative" else f"Mapping {RULES[kept]} is the better rule"
    )
    where = "between models of a family" if own else "between the families measured here"
    return kept, " ".join([*said, f"{verdict} {where}."])


def _depth(study: dict[str, Any]) -> str:
    found = study["depth"]
    rows = []
    for pair in found["pairs"]:
        row = [" to ".join(pair["models"])]
        for rule in RULES:
            r = pair["rules"][rule]
            row.append(f"{r['value']:.3f} ({r['low']:.2f} to {r['high']:.2f})")
            if rule != "relative":
                row.append(f"{r['gain']:+.3f} ({r['gain_low']:+.3f} to {r['gain_high']:+.3f})")
        rows.append(row)
    text = (
        "Cuts inside the language model (five of fixed method and keep, and withdrawal, at every layer) on one model "
        "against their images on another, Spearman over all cuts and layers. *Relative depth* is the rule autotc uses: "
        "a layer becomes the one with as large a share of layers before it. *By function* it becomes the layer with as "
        "much of the last prompt token's attention to visual tokens behind it, or with as much of the loss that "
        "withdrawing all visual tokens at the first layer would cause already avoided. Intervals: 95 % by a bootstrap "
        "of images, of the correlation and of the gain over relative depth."
    )
    curves = [
        [m["model"], str(m["layers"]), " ".join(f"{v:.2f}" for v in m["attention"])] for m in found["models"]
    ]
    losses = [
        [m["model"], str(m["layers"]), " ".join(f"{v:.2f}" for v in m["withdrawal"])] for m in found["models"]
    ]
    head = ["from, to", RULES["relative"], RULES["attention"], "gain", RULES["withdrawal"], "gain"]
    return "\n\n".join(
        [
            text,
            kept_rule(study)[1],
            table(head, rows),
            "Models of one family have equally many layers here, so relative depth leaves every layer where it is; the "
            "families differ in theirs. Where withdrawal loses nothing any more, the order of cuts is the noise of the "
            "examples: small models that are done early agree less here.",
            "Attention of the last prompt token to visual tokens, by layer, mean over heads:",
            table(["model", "layers", "share of attention"], curves),
            "KL in nats from the uncompressed model when all visual tokens leave before layer 1, 2, ...:",
            table(["model", "layers", "KL"], losses),
        ]
    )
