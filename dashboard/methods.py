"""What the Methods page shows: the registry, asked in a process of its own, and the leaderboard's files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import streamlit as st

from autotc.errors import SpecError
from dashboard.words import WIDTH

ENCODERS = ("clip_text", "clip_patches")
# beside the package where it was installed, in the checkout else
FOLDERS = (Path(__file__).parent / "leaderboard", Path(__file__).parent.parent / "studies" / "leaderboard")


@st.cache_data(show_spinner="Asking the registry …")
def zoo() -> list[dict[str, Any]]:
    """Return what `autotc list reducers --json` says.

    The registry's modules import torch, which this process is to stay without.

    Raises:
        SpecError: the command failed.
    """
    command = [sys.executable, "-c", "from autotc.cli import main; main()", "list", "reducers", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise SpecError(f"autotc list reducers failed: {done.stderr.strip()[-500:]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def wants_encoder(method: dict[str, Any]) -> bool:
    """Return whether a method compares patches with the question through a text encoder."""
    return any(need in ENCODERS for need in method["needs"])


@st.cache_data(show_spinner=False)
def boards() -> dict[str, dict[str, Any]]:
    """Return the leaderboards at hand, by the model that ran."""
    folder = next((f for f in FOLDERS if f.is_dir()), None)
    files = sorted(folder.glob("*.json"), reverse=True) if folder else []
    read = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return {board["on"]: board for board in read}


def lines(board: dict[str, Any], names: set[str]) -> list[dict[str, str]]:
    """Return a leaderboard's recipes of some methods, one row each, the largest mean gain over random tokens first."""
    shares = sorted(map(float, board["limits"]), reverse=True)
    recipes: dict[str, dict[float, dict[str, Any]]] = {}
    for row in board["rows"]:
        if row["policy"] is not None and row["reducer"] in names:
            recipes.setdefault(row["label"], {})[row["share"]] = row

    def gain(rows: dict[float, dict[str, Any]]) -> float:
        found = [r["versus_random"][0] for r in rows.values() if r["versus_random"]]
        return sum(found) / len(found) if found else 0.0

    out = []
    for label, rows in sorted(recipes.items(), key=lambda item: -gain(item[1])):
        one = next(iter(rows.values()))
        line = {
            "recipe": label,
            "fidelity": one["fidelity"],
            "reads the question": "yes" if one["query_aware"] else "no",
        }
        for share in shares:
            row = rows.get(share)
            line[f"{round(share * board['tokens'])} tokens"] = "–" if row is None else _cell(row)
        out.append(line)
    return out


def _cell(row: dict[str, Any]) -> str:
    value, error, _ = row["quality"]
    text = f"{100 * value:.1f}" + ("" if error is None else f" ± {100 * WIDTH * error:.1f}") + " %"
    if row["versus_random"] and row["reducer"] != "random":
        text += f" ({100 * row['versus_random'][0]:+.1f})"
    return text
