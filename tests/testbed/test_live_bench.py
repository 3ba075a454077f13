"""Strategies in real searches: what is found is picked by the selection and scored by the held-out examples."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from autotc import live_bench
from autotc.search.setting import Setting
from tests.fakes import FULL, PROXY, accept, fake_evaluator
from tests.testbed.beds import VQA


def test_a_row_a_study_and_a_second_run_only_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        live_bench, "prepare", lambda spec: Setting(FULL, PROXY, "fake", VQA, fake_evaluator, check=accept)
    )
    options = {
        "max_tflops": 800.0,
        "trials": 20,
        "examples": 64,
        "selection_examples": 64,
        "heldout_examples": 64,
    }
    storage, lines = f"sqlite:///{tmp_path}/live.db", []
    found = live_bench.bench_live("qwen2.5-vl", ["default", "random"], 2, options, storage, lines.append)
    assert len(found["rows"]) == 4 == len(lines)
    for row in found["rows"]:
        assert row["trials"] == 20
        used, areas = zip(*row["curve"], strict=True)
        assert len(used) == 21 and list(used) == sorted(used) and list(areas) == sorted(areas)
        assert used[0] == 0 < areas[0]  # the references
        # what trials repeat of the references is answered from the store and costs nothing
        repeats = sum(b == a for a, b in itertools.pairwise(used))
        assert repeats >= 12 and 0 < row["evaluations"] == used[-1] <= (20 - repeats) * 64
        assert row["points"] == sorted(row["points"])
        assert row["area"] == pytest.approx(
            row["area_above_references"]
            + found["rows"][0]["area"]
            - found["rows"][0]["area_above_references"]
        )
    again = live_bench.bench_live("qwen2.5-vl", ["default", "random"], 2, options, storage, lines.append)
    assert again["rows"] == found["rows"]
    live_bench.write(found, tmp_path / "out")
    text = (tmp_path / "out" / "live.md").read_text()
    assert text.count("\n") == 6 and "| default |" in text and " ± " in text
    assert "default against random, 2 pairs of a seed: area" in text
    assert (tmp_path / "out" / "live.png").read_bytes()[:4] == b"\x89PNG"


def test_pairs_compare_the_same_seed_and_as_many_evaluations() -> None:
    def row(strategy: str, seed: int, area: float, *curve: tuple[int, float]) -> dict[str, object]:
        return {
            "strategy": strategy,
            "seed": seed,
            "area": area,
            "evaluations": curve[-1][0],
            "curve": [list(point) for point in curve],
        }

    rows = [
        row("default", 0, 10.0, (0, 1.0), (100, 6.0), (300, 9.0)),
        row("rival", 0, 7.0, (0, 1.0), (200, 4.0)),
        row("default", 1, 20.0, (0, 2.0), (100, 5.0)),
        row("rival", 1, 16.0, (0, 2.0), (50, 3.0), (400, 8.0)),
    ]
    (pair,) = [live_bench._pair(rows, "default", "rival")]
    assert pair["area"] == {"mean": 3.5, "stderr": pytest.approx(0.5)}
    # after 200 evaluations 6 against 4, after 100 5 against 3
    assert pair["search_area_at_equal_evaluations"] == {"mean": 2.0, "stderr": 0.0}
    assert pair["evaluations"]["mean"] == pytest.approx((100 - 300) / 2)
