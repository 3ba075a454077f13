"""The leaderboard compares at equal exact cost, pairs with random tokens, and goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotc import leaderboard
from autotc._outcomes import Outcomes
from autotc.adapter import resolve_model
from autotc.anatomy import Anatomy
from autotc.cost import estimate
from autotc.errors import SpecError
from autotc.leaderboard import Board, Entry, Row, measure, picture, plan, table, verdicts
from autotc.leaderboard.drawing import gain
from autotc.policy import Policy
from autotc.proxies import proxy_folder
from autotc.reducer import reducers
from autotc.workload import parse_workload

WORKLOAD = parse_workload("vqa")


class FakeEvaluator:
    """Every example is right with a chance that falls with the tokens taken; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def evaluate(self, policy: Policy | None, split: str, n: int, *, start: int = 0) -> Outcomes:
        self.asked.append("uncompressed" if policy is None else policy.describe())
        level = 1.0 if policy is None else policy.stages[-1].keep
        name = "" if policy is None else policy.stages[0].reducer
        random = np.random.default_rng(len(name))
        correct = (random.random(n) < 0.3 + 0.6 * level).astype(float)
        index = np.arange(n)
        stages = () if policy is None else policy.stages
        return Outcomes(
            split,
            "fake",
            "accuracy",
            id=index.astype(str),
            image=(index // 2).astype(str),
            group=np.where(index % 2, "a", "b"),
            correct=correct,
            full=np.ones(n),
            blind=np.zeros(n),
            agreement=correct,
            kl=np.zeros(n),
            next_correct=correct,
            answer=np.full(n, "x"),
            trace=[{"asked": 10.0, "kept": 5.0 if s.reducer == "prumerge" else 10.0} for s in stages],
        )


@pytest.fixture(scope="module")
def models() -> tuple[Anatomy, Anatomy]:
    proxy = proxy_folder("qwen2_5_vl")
    return resolve_model("qwen2.5-vl").anatomy, resolve_model(str(proxy)).anatomy


@pytest.fixture(scope="module")
def planned(models: tuple[Anatomy, Anatomy]) -> Any:
    return plan(*models, WORKLOAD, (2 / 9,))


def test_everything_stands_at_one_exact_cost(planned: Any, models: tuple[Anatomy, Anatomy]) -> None:
    entries, limits, _ = planned
    (limit,) = limits.values()
    assert limit == pytest.approx(
        estimate(next(e.policy for e in entries if e.label == "random"), models[0], WORKLOAD).tflops_exact
    )
    costs = {e.label: estimate(e.policy, models[0], WORKLOAD).tflops_exact for e in entries if e.policy}
    assert max(costs.values()) <= limit * (1 + 1e-9)
    # scaled to the budget, not only below it: within a token of one cut of it (a late cut's token weighs less)
    near = [label for label, cost in costs.items() if cost > 0.99 * limit]
    assert len(near) > 0.9 * len(costs)
    for entry in entries:
        if entry.policy is not None:
            assert entry.policy.for_model(models[1]).for_model(models[0]).stages == entry.policy.stages


def test_every_reducer_is_on_the_board_or_left_out_with_a_reason(planned: Any) -> None:
    entries, _, left_out = planned
    there = {e.reducer for e in entries}
    reasons = {label.partition(",")[0].partition("-")[0]: reason for label, _, reason in left_out}
    for name in set(reducers.names()) - there:
        presets = {preset.name for preset in reducers.get(name).presets}
        labels = {label for label, _, _ in left_out}
        assert presets & labels or name in labels, f"{name} is neither measured nor left out"
    assert all(reasons.values())


def test_rows_are_paired_and_charged_for_what_was_really_kept(
    planned: Any, models: tuple[Anatomy, Anatomy]
) -> None:
    entries, limits, left_out = planned
    some = [e for e in entries if e.label in ("uncompressed", "random", "fastv", "prumerge")]
    board = Board("m", "proxy:x", 64, "vqa", 576, limits, [], left_out)
    measure(board, some, FakeEvaluator(), *models, WORKLOAD)
    rows = {row.label: row for row in board.rows}
    assert rows["uncompressed"].versus_random is None and rows["uncompressed"].quality[2] == 64
    assert rows["random"].versus_random == (0.0, 0.0, 64)
    difference = rows["fastv"].versus_random
    assert difference is not None
    assert difference[0] == pytest.approx(rows["fastv"].quality[0] - rows["random"].quality[0])
    # half of what it was asked to keep: the cost is that of half the tokens
    entry = next(e for e in some if e.label == "prumerge")
    asked = entry.policy.stages[0].keep
    assert rows["prumerge"].kept == (asked / 2,)
    half = replace_keep(entry.policy, asked / 2)
    assert rows["prumerge"].tflops_exact == pytest.approx(
        estimate(half, models[0], WORKLOAD).tflops_exact, rel=1e-3
    )


def replace_keep(policy: Policy, keep: float) -> Policy:
    return policy.model_copy(update={"stages": (policy.stages[0].model_copy(update={"keep": keep}),)})


def test_an_interrupted_board_goes_on(planned: Any, models: tuple[Anatomy, Anatomy], tmp_path: Path) -> None:
    entries, limits, left_out = planned
    some = [e for e in entries if e.label in ("uncompressed", "random", "fastv", "divprune")]
    board = Board("m", "proxy:x", 64, "vqa", 576, limits, [], left_out)
    measure(board, some[:3], FakeEvaluator(), *models, WORKLOAD)
    path = tmp_path / "board.json"
    path.write_text(json.dumps(board.as_dict()), encoding="utf-8")
    again, evaluator = Board.read(path), FakeEvaluator()
    assert again == board
    measure(again, some, evaluator, *models, WORKLOAD)
    # random runs again: the others are paired with its outcomes
    assert len(evaluator.asked) == 2 and len(again.rows) == 4
    changed = [replace(e, policy=replace_keep(e.policy, 0.1)) if e.label == "fastv" else e for e in some]
    evaluator = FakeEvaluator()
    measure(again, changed, evaluator, *models, WORKLOAD)
    assert any("fastv" in asked for asked in evaluator.asked), (
        "another policy under the same name is measured"
    )


def test_table_and_picture_show_every_row(
    planned: Any, models: tuple[Anatomy, Anatomy], tmp_path: Path
) -> None:
    entries, limits, left_out = planned
    board = Board("m", "proxy:x", 64, "vqa", 576, limits, [], left_out)
    measure(board, entries, FakeEvaluator(), *models, WORKLOAD)
    text = table([board])
    for row in board.rows:
        assert f"| {row.label} |" in text
    for label, _, _ in left_out:
        assert f"* {label} at" in text
    picture([board, board]).write(tmp_path / "methods.png")
    assert (tmp_path / "methods.png").stat().st_size > 20_000
    shown = picture([board]).panels[0][1]
    assert {reducer_of(board, label) for label in shown} == {row.reducer for row in board.rows} - {""}
    assert len(shown) == len({row.reducer for row in board.rows}) - 1, "one row a method"
    gains = [gain(board, label) for label in shown]
    assert gains == sorted(gains, reverse=True)


def reducer_of(board: Board, label: str) -> str:
    return next(row.reducer for row in board.rows if row.label == label)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(SpecError, match=r"x\.json: not a leaderboard"):
        Board.read(path)


def test_a_reducer_whose_recipes_do_not_fit_stands_with_one_cut(models: tuple[Anatomy, Anatomy]) -> None:
    entries, _, left_out = plan(*models, WORKLOAD, (1 / 3,))
    single = [e for e in entries if e.label.endswith(", one cut")]
    assert single, "nothing fell back on one cut"
    for entry in single:
        assert isinstance(entry, Entry) and entry.policy is not None and len(entry.policy.stages) == 1
        recipes = {p.name for p in reducers.get(entry.reducer).presets}
        assert recipes <= {label for label, _, _ in left_out}
    assert leaderboard.SHARES[0] == pytest.approx(1 / 3)


def test_verdicts_are_corrected_within_a_budget() -> None:
    def row(label: str, share: float, difference: float, stderr: float) -> Row:
        found = (difference, stderr, 128)
        return Row(
            label, label, share, "faithful", False, 1.0, 1.0, (0.8, 0.02, 128), None, found, (share,), {}
        )

    weak = (0.1, 0.04)  # p = 0.015 alone
    alone = Board(
        "m", "proxy:x", 128, "vqa", 576, {0.5: 1.0}, [row("random", 0.5, 0, 0), row("a", 0.5, *weak)]
    )
    assert verdicts(alone) == {("a", 0.5): "better"}
    rows = [*alone.rows, *(row(f"m{i}", 0.5, 0.0, 0.04) for i in range(9)), row("b", 0.5, -0.3, 0.04)]
    crowd = replace(alone, rows=[*rows, row("a", 0.25, *weak)], limits={0.5: 1.0, 0.25: 0.5})
    assert verdicts(crowd) == {("b", 0.5): "worse", ("a", 0.25): "better"}
