"""What policies are chosen by: quality pooled over the examples of search and selection, other figures as they are."""

from __future__ import annotations

from math import sqrt

import pytest

from autotc.export import Member, front
from autotc.picking import decisive
from autotc.policy import Number
from autotc.recommend import recommend
from tests.report.made import policy


def figure(split: str, value: float, n: int, stderr: float | None, name: str = "quality") -> Number:
    return Number(
        name=name, value=value, unit="accuracy", kind="measured", on="m", split=split, stderr=stderr, n=n
    )


def member(trial: int, search: float, selection: float, cost: float) -> Member:
    exact = Number(name="tflops_exact", value=cost, unit="TFLOP/1000 requests", kind="estimated", on="m")
    literature = exact.model_copy(update={"name": "tflops_literature"})
    figures = (figure("search", search, 256, 0.03), figure("selection", selection, 256, 0.03))
    return Member(trial, None, policy(), (*figures, exact, literature))


def test_quality_is_the_mean_over_all_examples_with_its_error() -> None:
    there = {"search": figure("search", 0.9, 300, 0.02), "selection": figure("selection", 0.6, 100, 0.05)}
    found = decisive(lambda name, split: there.get(split), "quality", "selection")
    assert found is not None and found.n == 400
    assert found.value == pytest.approx((300 * 0.9 + 100 * 0.6) / 400)
    # the sum of independent parts
    assert found.stderr == pytest.approx(sqrt((300 * 0.02) ** 2 + (100 * 0.05) ** 2) / 400)


def test_other_figures_and_splits_are_left_as_they_are() -> None:
    there = {"search": figure("search", 0.9, 300, 0.02), "selection": figure("selection", 0.6, 100, 0.05)}

    def stored(name: str, split: str) -> Number | None:
        return there.get(split)

    assert decisive(stored, "worst_group_drop", "selection") == there["selection"]
    assert decisive(stored, "quality", "search") == there["search"]
    assert decisive(stored, "quality", "held-out") is None
    del there["search"]
    assert decisive(stored, "quality", "selection") == there["selection"]
    there["search"] = figure("search", 0.9, 300, 0.02).model_copy(update={"unit": "agreement"})
    assert decisive(stored, "quality", "selection") == there["selection"]


def test_front_and_choice_go_by_it_and_say_the_split() -> None:
    cheap, lucky, good = member(0, 0.70, 0.70, 1.0), member(1, 0.70, 0.80, 2.0), member(2, 0.84, 0.79, 2.0)
    found, split = front([cheap, lucky, good])
    assert ([m.trial for m in found], split) == ([0, 2], "selection")  # on selection alone it would be 1
    assert recommend(found, split, "quality").member.trial == 2
    assert found[1].value("quality", split) == 0.79
