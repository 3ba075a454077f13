"""Every method and every published recipe at equal exact cost, on examples that no search has used.

A budget is the exact cost of the plainest policy, random tokens behind the projector, that leaves a share of an image's
tokens. Each preset is scaled to that cost on the full model, so a method that cuts late, reads attention maps or
saves work in the tower stands on the same axis. Quality is measured on the family's proxy, held-out split, and
differences from random tokens are paired over the same examples, with standard errors clustered by image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from autotc import _outcomes
from autotc._outcomes import Outcomes
from autotc.adapter import OF_TEXT_ENCODER, adapters
from autotc.anatomy import Anatomy
from autotc.calibration import named, verdict
from autotc.charts import DotChart, Dots
from autotc.cost import estimate, placed_preset, solve_keep
from autotc.errors import PolicyError, SpecError, UnsupportedError
from autotc.policy import ModelRef, Policy, Stage, map_depth
from autotc.reducer import SIGNALS, Preset, Reducer, fidelity_on, reducers
from autotc.statistics import LEVEL, holm, p_of
from autotc.workload import Workload

SHARES = (1 / 3, 2 / 9, 1 / 9)  # of an image's tokens: 192, 128 and 64 of 576
EXAMPLES = 512
BASELINES = ("uncompressed", "random", "downsample", "uniform")
QUESTIONS = 2  # of an image in the built-in scenes


class Measures(Protocol):
    """What runs a policy; `autotc.evaluate.Evaluator` and `EvaluatorProcess` do."""

    def evaluate(self, policy: Policy | None, split: Any, n: int, *, start: int = 0) -> Outcomes: ...


@dataclass(frozen=True)
class Entry:
    """One policy to measure.

    Args:
        label: name of the preset, or of the reducer where it has none.
        reducer: whose recipe it is.
        share: of the tokens, which names the budget.
        policy: for the full model; None for the uncompressed one.
    """

    label: str
    reducer: str
    share: float
    policy: Policy | None


@dataclass(frozen=True)
class Row:
    """One measured policy.

    Args:
        label, reducer, share: as in `Entry`.
        fidelity: how true to the paper the method is on this family.
        query_aware: whether it reads the prompt.
        tflops_exact, tflops_literature: estimated, TFLOP per 1,000 requests of the full model.
        quality, worst_group, versus_random: mean, standard error, n; the last is paired.
        kept: share of the original tokens really alive after each stage; costs are for these.
        policy: the document.
    """

    label: str
    reducer: str
    share: float
    fidelity: str
    query_aware: bool
    tflops_exact: float
    tflops_literature: float
    quality: tuple[float, float | None, int]
    worst_group: tuple[str, float, float | None, int] | None
    versus_random: tuple[float, float | None, int] | None
    kept: tuple[float, ...]
    policy: dict[str, Any] | None


@dataclass
class Board:
    """The leaderboard of one family.

    Args:
        model, on: whose costs these are, and what was run.
        examples: asked for on the held-out split.
        workload: whose mix the costs are for.
        tokens: visual tokens of its first request's image.
        limits: exact cost of each budget, TFLOP per 1,000 requests.
        rows: measured.
        left_out: label, share and reason of what could not be placed or run.
    """

    model: str
    on: str
    examples: int
    workload: str
    tokens: int
    limits: dict[float, float]
    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, float, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "limits": {f"{share:.6f}": limit for share, limit in self.limits.items()}}

    @staticmethod
    def read(path: Path) -> Board:
        """Read what `as_dict` gave.

        Raises:
            SpecError: the file is not a leaderboard.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data["limits"] = {float(share): limit for share, limit in data["limits"].items()}
            data["rows"] = [Row(**{k: _tuple(v) for k, v in row.items()}) for row in data["rows"]]
            data["left_out"] = [tuple(item) for item in data["left_out"]]
            return Board(**data)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SpecError(f"{path}: not a leaderboard ({error}); delete it to start again") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def plan(
    full: Anatomy, evaluated: Anatomy, workload: Workload, shares: Sequence[float] = SHARES
) -> tuple[list[Entry], dict[float, float], list[tuple[str, float, str]]]:
    """Return what to measure, the exact cost of each budget, and what fits in nowhere with the reason.

    Args:
        full: the model whose costs count.
        evaluated: the model that runs; depths must exist in both.
        workload: the mix of requests.
        shares: of the tokens, one a budget.
    """
    entries, left_out = [Entry("uncompressed", "", 1.0, None)], []
    limits: dict[float, float] = {}
    model = ModelRef(
        family=full.family, id=full.id, decoder_layers=full.decoder.layers, vision_blocks=full.vision.blocks
    )
    for share in (round(share, 6) for share in shares):
        plain = Policy(model=model, stages=(Stage(site="projector", reducer="random", keep=share),))
        limits[share] = estimate(plain, full, workload).tflops_exact
        seen: set[str] = set()
        for cls in _classes():
            placed = False
            for preset in (*cls.presets, None):
                if preset is None and placed:
                    continue
                label = preset.name if preset else f"{cls.name}, one cut" if cls.presets else cls.name
                try:
                    policy = _placed(cls, preset, full, evaluated, workload, limits[share], model)
                except (PolicyError, UnsupportedError) as error:
                    policy = str(error)
                if isinstance(policy, str):
                    left_out.append((label, share, policy))
                    continue
                placed = True
                if policy.id not in seen:
                    seen.add(policy.id)
                    entries.append(Entry(label, cls.name, share, policy))
    return entries, limits, left_out


def _classes() -> list[type[Reducer]]:
    """Random tokens first, then the other baselines: what others are compared with is measured before them."""
    order = ("random", *BASELINES)
    return sorted(
        reducers.all(), key=lambda cls: (order.index(cls.name) if cls.name in order else len(order), cls.name)
    )


def _placed(
    cls: type[Reducer],
    preset: Preset | None,
    full: Anatomy,
    evaluated: Anatomy,
    workload: Workload,
    limit: float,
    model: ModelRef,
) -> Policy | str:
    """Return the policy at the budget, or why there is none."""
    from autotc.apply import check

    if preset is not None:
        policy = placed_preset(cls, preset, full, evaluated, workload, limit, "exact")
        if policy is None:
            whatever = placed_preset(cls, preset, full, evaluated, workload, math.inf, "exact")
            return (
                "its stages fall together, or out of the model, on so few layers"
                if whatever is None
                else "it costs more than this budget whatever it keeps"
            )
    else:
        site = next(s for s in ("projector", "decoder", "vision", "input") if s in cls.sites)
        layers = {"decoder": (2, evaluated.decoder.layers), "vision": (1, 2)}
        depth = {"decoder": full.decoder.layers, "vision": full.vision.blocks}
        layer = map_depth(*layers[site], depth[site]) if site in layers else None
        stage = Stage(site=site, layer=layer, reducer=cls.name, keep=0.0 if cls.withdraws else 0.5)
        policy = Policy(model=model, stages=(stage,)).for_model(evaluated).for_model(full)
        if not cls.withdraws:
            keep = solve_keep(policy, 0, full, workload, limit, "exact")
            if keep is None:
                return "one token still costs more"
            stage = policy.stages[0].model_copy(update={"keep": keep})
            policy = policy.model_copy(update={"stages": (stage,)})
    if estimate(policy, full, workload).tflops_exact > limit * (1 + 1e-9):
        return "it costs more than this budget whatever it keeps"
    check(policy, full)
    check(policy.for_model(evaluated), evaluated)
    return policy


def measure(
    board: Board,
    entries: Sequence[Entry],
    evaluator: Measures,
    full: Anatomy,
    evaluated: Anatomy,
    workload: Workload,
    done: Callable[[Entry], None] = lambda entry: None,
) -> None:
    """Measure what the board does not hold yet, row by row.

    Args:
        board: rows are added; those that are there with the same policy are kept.
        entries: from `plan`.
        evaluator: runs policies of the evaluated model.
        full, evaluated, workload: as in `plan`.
        done: called after each entry.
    """
    there = {(row.label, row.share): row for row in board.rows}
    random: dict[float, Outcomes] = {}
    for entry in entries:
        document = None if entry.policy is None else json.loads(entry.policy.json_text())
        old = there.get((entry.label, entry.share))
        if old is not None and old.policy == document and entry.reducer != "random":
            done(entry)
            continue
        policy = None if entry.policy is None else entry.policy.for_model(evaluated)
        outcomes = evaluator.evaluate(policy, "held-out", board.examples)
        if entry.reducer == "random":
            random[entry.share] = outcomes
        row = _row(entry, document, outcomes, random.get(entry.share), full, workload)
        board.rows = [r for r in board.rows if (r.label, r.share) != (entry.label, entry.share)] + [row]
        done(entry)


def _row(
    entry: Entry,
    document: dict[str, Any] | None,
    outcomes: Outcomes,
    random: Outcomes | None,
    full: Anatomy,
    workload: Workload,
) -> Row:
    cls = reducers.get(entry.reducer) if entry.reducer else None
    absent = {*adapters.get(full.family).signals_absent, *OF_TEXT_ENCODER}
    stages = entry.policy.stages if entry.policy else ()
    kept = tuple(
        stage.keep * t["kept"] / t["asked"] if t["asked"] else 0.0
        for stage, t in zip(stages, outcomes.trace, strict=True)
    )
    cost = estimate(entry.policy, full, workload, kept=kept if stages else None)
    low = _outcomes.worst(outcomes)
    return Row(
        label=entry.label,
        reducer=entry.reducer,
        share=entry.share,
        fidelity="" if cls is None else fidelity_on(cls, set(SIGNALS) - absent),
        query_aware=bool(cls and cls.query_aware),
        tflops_exact=cost.tflops_exact,
        tflops_literature=cost.tflops_literature,
        quality=_outcomes.mean(outcomes.correct, outcomes.image),
        worst_group=None if low is None else (low[0], *low[1]),
        versus_random=None if random is None or not stages else _outcomes.paired(outcomes, random),
        kept=kept,
        policy=document,
    )


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
        order = sorted(methods, key=lambda name: -_gain(board, name))
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
        for name in sorted(names, key=lambda name: -_gain(board, name)):
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


def _gain(board: Board, label: str) -> float:
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
