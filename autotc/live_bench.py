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
from autotc.store import Store
from autotc.testbed.lattice import budget
from autotc.testbed.score import Candidates, area, best_at

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
    }


def _scored(study: Study, result: Result, store: Store) -> dict[str, Any]:
    """Return what a study found, picked as `front` does and scored by the held-out examples."""
    space = study.space
    references, front = _candidates(result.references), _candidates(result.front)
    limits = {t: budget(space.full, space.workload, t, "exact") for t in SHARES}
    most = max(limits.values())
    trials = store.trials(result.study, role="trial")
    evaluated = sum(n.n or 0 for t in trials for n in t.numbers if (n.name, n.split) == ("quality", "search"))
    own, known = area(references + front, most, 0.0), area(references, most, 0.0)
    return {
        "area": own,
        "area_above_references": own - known,
        "evaluations": evaluated,
        "trials": len(trials),
        "front": len(result.front),
        **{f"at_{round(576 * t)}": best_at(references + front, c) for t, c in limits.items()},
    }


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
    return "\n".join(lines) + "\n"


def _pm(value: dict[str, Any], scale: float, digits: int) -> str:
    text = f"{scale * value['mean']:,.{digits}f}"
    return text if value["stderr"] is None else f"{text} ± {scale * value['stderr']:.{digits}f}"


def write(found: dict[str, Any], out: Path) -> None:
    """Write the figures and the table into a folder.

    Raises:
        SpecError: nothing was run.
    """
    if not found["rows"]:
        raise SpecError("--seeds: nothing was run")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "live.json", json.dumps(found, indent=1) + "\n")
    write_text(out / "live.md", table(found))
