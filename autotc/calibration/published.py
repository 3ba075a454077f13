"""What published tables say about methods: retention by column, which of two is better, and where sources agree.

`published.json` holds the tables; a *source* is who ran the models, not a table: all copied rows are one source, and
so are all tables of one benchmark, whatever models it ran. Rows by a method's own authors decide nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

BUDGETS = (1 / 3, 2 / 9, 1 / 9)  # shares of an image's tokens: 192, 128 and 64 of 576
NAMES = {1 / 3: "33 %", 2 / 9: "22 %", 1 / 9: "11 %"}
LEAST_GAP = 1.0  # points of mean retention; smaller ones should not be read
LEAST_SHARE = 3 / 4  # of the common columns on which the better one is better: 6 of 7
LEAST_COLUMNS = 4

SOURCES = {
    "vscan": "copied table",
    "uniprunebench": "UniPruneBench",
    "vtcbench": "VTC-Bench",
    "rightproblem": "Right Problem",
    "restore": "RESTORE",
    "foveated": "Foveated",
    "msdg": "MSDG-Prune",
    "visionweave": "VisionWeave",
    "issue": "user report",
}
FAMILIES = {"LLaVA-1.5-7B": "llava", "Qwen2-VL-7B": "qwen2_5_vl", "Qwen2.5-VL-7B": "qwen2_5_vl"}
# counted from the same outputs as VTC-Bench's table, or on examples that downsampling itself selects
SAME_OUTPUTS = (
    "vtcbench_csv_kept_qwen2vl_7b",
    "vtcbench_csv_hard_qwen2vl_7b",
    "vtcbench_csv_hard_llava_ov_7b",
)
# by table: columns, rows (method, bin) and cells (method, bin, column) that their notes call broken
BROKEN_COLUMNS = {"uniprunebench_llava15_7b": ("MMB-CN",), "uniprunebench_qwen25vl_7b": ("Math-V",)}
BROKEN_ROWS = {("uniprunebench_qwen25vl_7b", name, 1 / 3) for name in ("GPrune", "Random-Pre")}
BROKEN_CELLS = {
    ("restore_qwen25vl_7b", "VisPruner", 2 / 9, "MME"),
    ("restore_qwen25vl_7b", "VisPruner", 1 / 9, "MME"),
    ("msdg_qwen25vl_7b", "Random", 1 / 3, "GQA"),
}
# printed names that mean one thing
ALIASES = {
    "Random": "random",
    "Random-Pre": "random",
    "Random-Intra": "random inside",
    "Downsample": "downsample",
    "Downsample (iso-token)": "downsample",
    "Downsample (matched budget)": "downsample",
    "Downsample 2x": "downsample",
    "Downsampling": "downsample",
    "Pooling": "pooling",
    "Mean pooling 3x3": "pooling",
}
SHARED_AUTHORS = {("vtcbench", "DART"), ("rightproblem", "DART")}  # the runner also wrote the method


@dataclass(frozen=True)
class Entry:
    """One printed row.

    Args:
        source: who ran it, a key of `SOURCES`.
        table, model, family: where it stands; the family is that of a proxy, or None.
        method: one name for what tables print under several.
        keep: share of the tokens, as the source states it.
        budget: the nearest of `BUDGETS`, or None where none is near.
        independent: neither by the method's own authors nor of unclear origin.
        retention: by column, in % of the uncompressed model.
    """

    source: str
    table: str
    model: str
    family: str | None
    method: str
    keep: float
    budget: float | None
    independent: bool
    retention: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean retention in %, over the columns it has."""
        return sum(self.retention.values()) / len(self.retention)


@dataclass(frozen=True)
class Duel:
    """Two methods in one table at one budget.

    Args:
        source, table, budget: where.
        better: +1 or -1 for the first or second by mean retention, 0 when equal.
        decided: `better` where the gap and the share of columns are large enough, else 0.
        gap: first minus second, points of mean retention over the common columns.
        wins: of the common columns on which the first is better, and the second.
        columns: common ones.
    """

    source: str
    table: str
    budget: float
    pair: tuple[str, str]
    better: int
    decided: int
    gap: float
    wins: tuple[int, int]
    columns: int


@dataclass(frozen=True)
class Settled:
    """A yardstick pair: at least two sources decide for `winner`, and none against it."""

    budget: float
    winner: str
    loser: str
    sources: tuple[str, ...]


def budget_of(keep: float) -> float | None:
    """Return the budget that a share of the tokens is nearest to on a logarithmic scale; None past sqrt(1.5), or
    below the last one past sqrt(2).
    """
    low, high = BUDGETS[-1] / math.sqrt(2), BUDGETS[0] * math.sqrt(1.5)
    return min(BUDGETS, key=lambda b: abs(math.log(b / keep))) if low <= keep <= high else None


@cache
def tables() -> list[dict[str, Any]]:
    """Return the published tables as they stand in the file."""
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))["tables"]


@cache
def entries() -> tuple[Entry, ...]:
    """Return the rows of all tables but those that are a second view of the same outputs; broken cells left out."""
    found = []
    for table in tables():
        if table["id"] in SAME_OUTPUTS:
            continue
        source = table["id"].split("_")[0]
        for row in table["rows"]:
            keep = row["keep_ratio"] or row["keep_tokens"] / table["full_tokens"]
            entry = Entry(
                source=source,
                table=table["id"],
                model=table["model"],
                family=FAMILIES.get(table["model"]),
                method=ALIASES.get(row["method"], row["method"]),
                keep=keep,
                budget=budget_of(keep),
                independent=row["run_by"].startswith(("independent", "copied"))
                and (source, row["method"]) not in SHARED_AUTHORS
                and not row["method"].startswith("Random cell"),
                retention=_retention(table, row, budget_of(keep)),
            )
            if entry.retention and (entry.table, row["method"], entry.budget) not in BROKEN_ROWS:
                found.append(entry)
    return tuple(found)


def _retention(table: dict[str, Any], row: dict[str, Any], budget: float | None) -> dict[str, float]:
    broken = BROKEN_COLUMNS.get(table["id"], ())
    if all(value is None for value in table["baseline"].values()):
        # per cent of what another model answers; the table has no full-token row, and none is needed to compare
        full = dict.fromkeys(table["columns"], 100.0) if "_csv_" in table["id"] else {}
    else:
        full = table["baseline"]
    return {
        column: 100 * row["values"][column] / full[column]
        for column in table["columns"]
        if column not in (*table["aggregate_columns"], *broken)
        and (table["id"], row["method"], budget, column) not in BROKEN_CELLS
        and row["values"].get(column) is not None
        and full.get(column) is not None
    }


def duel(
    first: Entry, second: Entry, share: float = LEAST_SHARE, columns: Iterable[str] | None = None
) -> Duel | None:
    """Compare two rows of one table; None with fewer than four common columns.

    Args:
        first, second: the rows.
        share: of the columns on which the better one must be better.
        columns: to look at; default: all.
    """
    shared = [c for c in columns or first.retention if c in first.retention and c in second.retention]
    if len(shared) < LEAST_COLUMNS:
        return None
    gaps = [first.retention[c] - second.retention[c] for c in shared]
    gap, wins = sum(gaps) / len(gaps), (sum(g > 0 for g in gaps), sum(g < 0 for g in gaps))
    better = (gap > 0) - (gap < 0)
    clear = abs(gap) >= LEAST_GAP and wins[better < 0] >= share * len(shared) - 1e-9
    assert first.budget is not None
    return Duel(
        first.source,
        first.table,
        first.budget,
        (first.method, second.method),
        better,
        better if clear else 0,
        gap,
        wins,
        len(shared),
    )


def duels(rows: Sequence[Entry], share: float = LEAST_SHARE) -> list[Duel]:
    """Return every pair of independent rows that stand in one table at one share of tokens, names in order."""
    cells: dict[tuple[str, float], list[Entry]] = {}
    for row in rows:
        if row.independent and row.budget is not None:
            cells.setdefault((row.table, row.keep), []).append(row)
    found = []
    for members in cells.values():
        for first, second in combinations(sorted(members, key=lambda e: e.method), 2):
            if first.method != second.method and (one := duel(first, second, share)) is not None:
                found.append(one)
    return found


def yardstick(found: Iterable[Duel], least_sources: int = 2) -> list[Settled]:
    """Return the pairs that enough sources decide one way, and no table the other way."""
    by_pair: dict[tuple[float, tuple[str, str]], list[Duel]] = {}
    for one in found:
        if one.decided:
            by_pair.setdefault((one.budget, one.pair), []).append(one)
    out = []
    for (budget, pair), deciding in by_pair.items():
        ways = {one.decided for one in deciding}
        sources = tuple(sorted({one.source for one in deciding}))
        if len(ways) == 1 and len(sources) >= least_sources:
            winner, loser = pair if ways == {1} else pair[::-1]
            out.append(Settled(budget, winner, loser, sources))
    return sorted(out, key=lambda s: (-s.budget, s.winner, s.loser))


def contradicted(found: Iterable[Duel]) -> list[tuple[float, tuple[str, str]]]:
    """Return the pairs that different tables decide in opposite ways."""
    ways: dict[tuple[float, tuple[str, str]], set[int]] = {}
    for one in found:
        if one.decided:
            ways.setdefault((one.budget, one.pair), set()).add(one.decided)
    return sorted((key for key, seen in ways.items() if len(seen) > 1), key=lambda k: (-k[0], k[1]))
