"""`list presets` with costs, `bench reducers` and `bench methods` as their user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autotc import leaderboard, running
from autotc.cost import estimate
from autotc.leaderboard import Board
from autotc.policy import load_policy
from autotc.workload import parse_workload
from tests.test_cli import autotc as autotc
from tests.test_leaderboard import FakeEvaluator


def test_presets_with_both_costs_at_a_limit(autotc):
    code, out, _ = autotc("list", "presets", "--model", "llava-1.5-7b", "--max-tflops", "833.3", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert len(rows) > 50
    for row in rows.values():
        if row["document"] is None:
            assert row["tflops_exact"] is None and row["policy"]
            continue
        assert row["tflops_literature"] <= 833.3
        assert row["tflops_exact"] > row["tflops_literature"]
    # the published table has 833.2 at 128 tokens
    assert load_policy(rows["divprune"]["document"]).stages[0].tokens(576) == 128


def test_presets_at_their_published_counts(autotc):
    code, out, _ = autotc("list", "presets", "--model", "llava-1.5-7b", "--match", "pyramiddrop", "--json")
    (row,) = json.loads(out)
    policy = load_policy(row["document"])
    assert code == 0 and [stage.tokens(576) for stage in policy.stages] == [288, 144, 72]
    from autotc.adapter import resolve_model

    cost = estimate(policy, resolve_model("llava-1.5-7b").anatomy, parse_workload("vqa"))
    assert row["tflops_literature"] == pytest.approx(cost.tflops_literature, abs=0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list", "reducers", "--model", "qwen2.5-vl"), "only presets have costs"),
        (("list", "presets", "--max-tflops", "800"), "give one with --model"),
        (("bench", "reducers", "--reducer", "fasv"), "fastv"),
        (("bench", "methods", "--model", "qwen3-vl-8b"), "no proxy ships for the family qwen3_vl"),
    ],
)
def test_wrong_words_are_named(autotc, words, message):
    code, out, err = autotc(*words)
    assert code == 2 and message in err and not out


def test_bench_reducers_prints_ratios_and_their_alternative(autotc, tmp_path: Path):
    words = ("bench", "reducers", "--tokens", "16", "--repeats", "2", "--reducer", "fastv")
    code, out, err = autotc(*words, "--out", str(tmp_path / "times"))
    assert code == 0 and "fastv ..." in err
    assert "cosine map of 16 tokens" in out and " x" in out
    assert "| `fastv` |" in (tmp_path / "times" / "README.md").read_text(encoding="utf-8")
    stored = json.loads((tmp_path / "times" / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in stored["reducers"]] == ["fastv"]


def test_bench_methods_fills_a_folder_and_draws_it_again(autotc, monkeypatch, tmp_path: Path):
    class Fake(FakeEvaluator):
        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

    plan = leaderboard.plan
    monkeypatch.setattr(running, "make_evaluator", lambda *args: Fake())
    monkeypatch.setattr(leaderboard, "plan", lambda *args: plan(*args, shares=(1 / 9,)))
    folder = tmp_path / "board"
    code, out, _ = autotc(
        "bench", "methods", "--model", "qwen2.5-vl", "--examples", "32", "--out", str(folder)
    )
    assert code == 0 and "policies measured" in out
    board = Board.read(folder / "qwen2_5_vl-tiny.json")
    assert len(board.rows) > 50 and board.examples == 32
    text = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").unlink()
    code, _, _ = autotc("bench", "methods", "--draw-only", "--out", str(folder))
    assert code == 0 and (folder / "README.md").read_text(encoding="utf-8") == text
    assert (folder / "methods.png").is_file()
