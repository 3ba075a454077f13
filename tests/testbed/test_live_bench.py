"""Strategies in real searches: what is found is picked by the selection and scored by the held-out examples."""

from __future__ import annotations

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
        "trials": 12,
        "examples": 64,
        "selection_examples": 64,
        "heldout_examples": 64,
    }
    storage, lines = f"sqlite:///{tmp_path}/live.db", []
    found = live_bench.bench_live("qwen2.5-vl", ["default", "random"], 2, options, storage, lines.append)
    assert len(found["rows"]) == 4 == len(lines)
    for row in found["rows"]:
        assert row["trials"] == 12 and 0 < row["evaluations"] <= 12 * 64
        assert row["area"] == pytest.approx(
            row["area_above_references"]
            + found["rows"][0]["area"]
            - found["rows"][0]["area_above_references"]
        )
    again = live_bench.bench_live("qwen2.5-vl", ["default", "random"], 2, options, storage, lines.append)
    assert again["rows"] == found["rows"]
    live_bench.write(found, tmp_path / "out")
    text = (tmp_path / "out" / "live.md").read_text()
    assert text.count("\n") == 4 and "| default |" in text and " ± " in text
