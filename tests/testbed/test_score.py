"""Areas, gaps and picks against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotc.pareto import hypervolume
from autotc.testbed.score import Candidates, area, best_at, gap_closed, picks


def candidates(*rows: tuple[float, float, float]) -> Candidates:
    cost, picking, held = np.array(rows, float).reshape(-1, 3).T
    return Candidates(cost, picking, held)


THREE = candidates((10, 0.5, 0.5), (20, 0.7, 0.6), (30, 0.6, 0.9))


def test_the_area_of_steps() -> None:
    # 0.5 - 0.25 over 10..20, 0.6 - 0.25 over 20..40; the third is never picked, however good on held-out examples
    assert picks(THREE).tolist() == [0, 1]
    assert area(THREE, 40, 0.25) == pytest.approx(10 * 0.25 + 20 * 0.35)


def test_a_pick_that_is_worse_on_held_out_examples_costs_area() -> None:
    fooled = candidates((10, 0.5, 0.5), (20, 0.9, 0.3))
    assert area(fooled, 40, 0.25) == pytest.approx(10 * 0.25 + 20 * 0.05)
    assert area(fooled, 40, 0.25) < area(candidates((10, 0.5, 0.5)), 40, 0.25)


def test_it_is_the_hypervolume_where_picking_is_not_fooled() -> None:
    rng = np.random.default_rng(0)
    cost, quality = rng.uniform(1, 50, 200), rng.uniform(0, 1, 200)
    expected = hypervolume(np.column_stack([quality, cost]), (0.2, 40), maximise=(True, False))
    assert area(Candidates(cost, quality, quality), 40, 0.2) == pytest.approx(expected)


def test_nothing_within_the_cost_has_no_area() -> None:
    assert area(THREE, 10, 0.25) == 0.0
    assert area(candidates(), 40, 0.0) == 0.0


def test_gap_closed() -> None:
    assert gap_closed(5, 5, 9) == 0.0
    assert gap_closed(8, 5, 9) == 0.75
    assert gap_closed(4, 5, 9) == -0.25
    assert math.isnan(gap_closed(5, 5, 5))


def test_the_best_at_a_cost_is_what_would_be_picked() -> None:
    assert best_at(THREE, 10) == 0.5
    assert best_at(THREE, 40) == 0.6
    assert math.isnan(best_at(THREE, 5))
    tied = candidates((10, 0.5, 0.1), (8, 0.5, 0.2))
    assert best_at(tied, 40) == 0.2  # the cheaper one of equals
