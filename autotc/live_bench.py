"""Strategies compared in real searches: what each finds with as many trials, on examples that no search sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotc.errors import SpecError
from autotc.export import Member, write_text
from autotc.picking import decisive
from autotc.running import prepare
from autotc.search.result import Result
from autotc.search.spec import SearchSpec
from autotc.search.study import Study
from autotc.store import Store, TrialRow
from autotc.testbed import live_picture
from autotc.testbed.lattice import budget
from autotc.testbed.score import Candidates, area, best_at, picks

SHARES = (1 / 3, 2 / 9, 1 / 9)  # 192, 128 and 64 of 576 tokens


def bench_live(
    model: str,
    strategies: Sequence[str],
    seeds: int,
    options: dict[str, Any],
    storage: str | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run each strategy with each seed as a study of its own; those that are stored already are only read.

    Args:
        model: alias of the full model; its proxy runs.
        strategies: by name.
        seeds: of each, from 0 on.
        options: of `SearchSpec`, the same for all.
        storage: URL of the database.
        say: called with a line of progress.

    Returns:
        Plain JSON data: a row a study, and means with standard errors over seeds.
    """
    rows = []
    for seed in range(seeds):
        for strategy in strategies:
            given = {"model": model, "strategy": strategy, "seed": seed, "storage": storage, **options}
            spec = SearchSpec.from_options({**given, "study": f"{model}-{strategy}-{seed}"})
            store = Store(spec.storage)
            study = Study(spec, store, replace(prepare(spec), timeout=None))
            result = study.run()
            rows.append({"strategy": strategy, "seed": seed, **_scored(study, result, store)})
            store.close()
            say(
                f"{strategy}, seed {seed}: area {rows[-1]['area']:.0f}, {rows[-1]['evaluations']:,} evaluations"
            )
    tokens = [str(round(576 * share)) for share in SHARES]
    first = strategies[0]
    return {
        "model": model,
        "on": result.on,
        "options": options,
        "seeds": seeds,
        "unit": "accuracy x TFLOP per 1,000 requests (exact)",
        "rows": rows,
        "strategies": [
            {
                "strategy": name,
                **{
                    key: _mean([r[key] for r in rows if r["strategy"] == name])
                    for key in ("area", "area_above_references", "evaluations", *(f"at_{t}" for t in tokens))
                },
            }
            for name in strategies
        ],
        "pairs": [_pair(rows, first, other) for other in strategies if other != first],
    }


def _pair(rows: Sequence[dict[str, Any]], one: str, other: str) -> dict[str, Any]:
    """Return what the first strategy found more than another with the same seeds, means with standard errors."""
    by = {(r["strategy"], r["seed"]): r for r in rows}
    both = [(by[one, s], by[other, s]) for s in sorted({r["seed"] for r in rows})]
    equal = []
    for a, b in both:
        least = min(a["evaluations"], b["evaluations"])
        equal.append(_after(a["curve"], least) - _after(b["curve"], least))
    return {
        "strategy": one,
        "rival": other,
        "seeds": len(both),
        "area": _mean([a["area"] - b["area"] for a, b in both]),
        "search_area_at_equal_evaluations": _mean(equal),
        "evaluations": _mean([a["evaluations"] - b["evaluations"] for a, b in both]),
    }


def _after(curve: Sequence[Sequence[float]], evaluations: int) -> float:
    """Return the area of a curve when so many evaluations were used."""
    return float([area for used, area in curve if used <= evaluations][-1])


def _scored(study: Study, result: Result, store: Store) -> dict[str, Any]:
    """Return what a study found, picked as `front` does and scored by the held-out examples."""
    space = study.space
    references, front = _candidates(result.references), _candidates(result.front)
    limits = {t: budget(space.full, space.workload, t, "exact") for t in SHARES}
    most = max(limits.values())
    rows = store.trials(result.study)
    trials = [r for r in rows if r.role == "trial"]
    curve = _curve(rows, study.spec.examples, most)
    picked = references + front
    own, known = area(picked, most, 0.0), area(references, most, 0.0)
    order = [i for i in picks(picked) if picked.cost[i] < most]
    return {
        "area": own,
        "area_above_references": own - known,
        "evaluations": int(curve[-1][0]),
        "trials": len(trials),
        "front": len(result.front),
        **{f"at_{round(576 * t)}": best_at(picked, c) for t, c in limits.items()},
        "curve": curve,
        "points": [[float(picked.cost[i]), float(picked.held[i])] for i in order],
        "limits": {str(round(576 * t)): c for t, c in limits.items()},
    }


def _curve(rows: Sequence[TrialRow], examples: int, most: float) -> list[list[float]]:
    """Return evaluations so far and the area on the search examples, of the references (which are free) and after each
    trial.

    Policies are picked and scored by the same examples here, which flatters what was picked; it is what there is of
    trials that did not reach the end.
    """
    found = Candidates(np.zeros(0), np.zeros(0), np.zeros(0))
    used, curve = 0, [[0.0, 0.0]]
    for row in sorted(rows, key=lambda r: (r.role == "trial", r.number or 0)):
        number = row.number_of("quality", "search")
        n = 0 if number is None else number.n or 0
        within = all(v <= 0 for v in row.violations.values())
        if number is not None and row.policy.stages and n >= examples and within:
            value = np.array([number.value])
            found += Candidates(np.array([row.costs["tflops_exact"]], float), value, value)
        if row.role == "trial":
            used += n if row.seconds else 0  # what ran before is answered from the store
            curve.append([used, area(found, most, 0.0)])
        else:
            curve[0][1] = area(found, most, 0.0)
    return curve


def _candidates(members: Sequence[Member]) -> Candidates:
    found = []
    for member in members:
        picking = decisive(member.number, "quality", "selection")
        held = member.number("quality", "held-out")
        if member.policy.stages and picking is not None and held is not None:
            found.append((float(member.costs["tflops_exact"]), picking.value, held.value))
    rows = np.array(found).reshape(-1, 3)
    return Candidates(rows[:, 0], rows[:, 1], rows[:, 2])


def _mean(values: Sequence[float]) -> dict[str, Any]:
    there = np.array(values, float)
    error = float(there.std(ddof=1) / np.sqrt(len(there))) if len(there) > 1 else None
    return {"mean": float(there.mean()), "stderr": error}


def table(found: dict[str, Any]) -> str:
    """Return the comparison as a Markdown table."""
    budgets = [key for key in found["strategies"][0] if key.startswith("at_")]
    lines = [
        "| strategy | area | above the references | "
        + " | ".join(f"accuracy at {b.removeprefix('at_')} tokens, %" for b in budgets)
        + " | evaluations |",
        "|---|---|---|" + "---|" * (len(budgets) + 1),
    ]
    for s in found["strategies"]:
        cells = [s["strategy"], _pm(s["area"], 1, 0), _pm(s["area_above_references"], 1, 0)]
        cells += [_pm(s[b], 100, 1) for b in budgets] + [f"{s['evaluations']['mean']:,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    said = ["", *map(_said, found["pairs"])] if found["pairs"] else []
    return "\n".join([*lines, *said]) + "\n"


def _said(pair: dict[str, Any]) -> str:
    """Say what pairs of searches with the same seed show."""
    area, early, more = (pair[k] for k in ("area", "search_area_at_equal_evaluations", "evaluations"))
    return (
        f"{pair['strategy']} against {pair['rival']}, {pair['seeds']} pairs of a seed: area {_signed(area)}, with "
        f"{_signed(more)} evaluations; after as many evaluations, by the search examples alone: {_signed(early)}."
    )


def _signed(value: dict[str, Any]) -> str:
    text = f"{value['mean']:+,.0f}"
    return text if value["stderr"] is None else f"{text} ± {value['stderr']:.0f}"


def _pm(value: dict[str, Any], scale: float, digits: int) -> str:
    text = f"{scale * value['mean']:,.{digits}f}"
    return text if value["stderr"] is None else f"{text} ± {scale * value['stderr']:.{digits}f}"


def write(found: dict[str, Any], out: Path) -> None:
    """Write the figures, the table and the picture into a folder.

    Raises:
        SpecError: nothing was run; a file cannot be written.
    """
    if not found["rows"]:
        raise SpecError("--seeds: nothing was run")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "live.json", json.dumps(found, indent=1) + "\n")
    write_text(out / "live.md", table(found))
    live_picture.write(found, out / "live.png")
