"""Fronts, hypervolume, knee and the noise rule, against brute force and worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotc.pareto import (
    cheapest_within_noise,
    hypervolume,
    hypervolume_history,
    knee,
    non_dominated,
    spread_out,
)

# few distinct values, so that ties and duplicates are common
COORDINATE = st.integers(0, 6).map(float) | st.just(math.nan)


def clouds(objectives: int, coordinate: st.SearchStrategy[float] = COORDINATE) -> st.SearchStrategy:
    return st.lists(st.lists(coordinate, min_size=objectives, max_size=objectives), max_size=14)


def brute_force(points: np.ndarray, signs: np.ndarray) -> list[bool]:
    losses = points * -signs
    front = []
    for i, mine in enumerate(losses):
        beaten = any(
            (other <= mine).all() and ((other < mine).any() or (j < i and (other == mine).all()))
            for j, other in enumerate(losses)
        )
        front.append(not beaten and not np.isnan(mine).any())
    return front


@pytest.mark.parametrize("objectives", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_non_dominated_is_what_the_definition_says(objectives: int, data: st.DataObject) -> None:
    points = np.array(data.draw(clouds(objectives))).reshape(-1, objectives)
    maximise = data.draw(st.lists(st.booleans(), min_size=objectives, max_size=objectives))
    signs = np.where(maximise, 1.0, -1.0)
    assert non_dominated(points, maximise).tolist() == brute_force(points, signs)


def test_directions_ties_and_duplicates() -> None:
    # quality up, cost down; the third repeats the first, the fourth ties in quality and costs more
    points = [(0.9, 5.0), (0.8, 3.0), (0.9, 5.0), (0.9, 6.0), (0.7, 3.0)]
    assert non_dominated(points, (True, False)).tolist() == [True, True, False, False, False]
    assert non_dominated(points, True).tolist() == [False, False, False, True, False]


def test_infinities_are_compared_and_nothing_is_empty() -> None:
    assert non_dominated([(1.0, math.inf)]).tolist() == [True]
    assert non_dominated([(math.inf, 1.0), (2.0, math.inf), (1.0, math.inf)]).tolist() == [True, False, True]
    assert non_dominated([]).tolist() == []
    assert non_dominated(np.empty((0, 3)), (True, False, True)).tolist() == []


@given(points=clouds(2), reference=st.tuples(st.integers(0, 7), st.integers(0, 7)))
@settings(max_examples=200, deadline=None)
def test_hypervolume_counts_unit_squares(points: list[list[float]], reference: tuple[int, int]) -> None:
    # integer points: the area is the number of unit squares with a dominating point at or below their corner
    squares = sum(
        any(x <= i and y <= j for x, y in points) for i in range(reference[0]) for j in range(reference[1])
    )
    assert hypervolume(np.array(points).reshape(-1, 2), reference) == squares


@given(points=clouds(2, st.floats(-3, 3)), extra=st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
@settings(max_examples=100, deadline=None)
def test_hypervolume_grows_exactly_when_the_front_moves(
    points: list[list[float]], extra: tuple[float, float]
) -> None:
    maximise, reference = (True, False), (-3.5, 3.5)
    array = np.array(points).reshape(-1, 2)
    more = np.vstack([array, extra])
    before, after = (hypervolume(p, reference, maximise) for p in (array, more))
    assert after >= before - 1e-12
    if not non_dominated(more, maximise)[-1]:
        assert after == pytest.approx(before, abs=1e-12)
    mirrored = hypervolume(more * [-1, 1], (3.5, 3.5))
    assert after == pytest.approx(mirrored, abs=1e-12)


def test_hypervolume_by_hand() -> None:
    points = [(1.0, 3.0), (2.0, 1.0), (2.5, 2.0), (9.0, 0.0), (math.nan, 0.0)]
    # (4-1)(4-3) + (4-2)(3-1); the third is dominated, the fourth is outside
    assert hypervolume(points, (4.0, 4.0)) == 7.0
    assert hypervolume([], (4.0, 4.0)) == 0.0
    # two boxes 3 x 2 x 1 and 2 x 3 x 3 share 2 x 2 x 1
    assert hypervolume([(1.0, 2.0, 3.0), (2.0, 1.0, 1.0)], (4.0, 4.0, 4.0)) == 6.0 + 18.0 - 4.0
    for points, reference in (([(1.0,)], (4.0,)), ([(1.0, 2.0)], (4.0, 4.0, 4.0))):
        with pytest.raises(ValueError, match="2 objectives are needed at least"):
            hypervolume(points, reference)


@pytest.mark.parametrize("objectives", [3, 4])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_hypervolume_counts_unit_cubes_and_its_history_is_that_of_the_points_so_far(
    objectives: int, data: st.DataObject
) -> None:
    points = np.array(data.draw(clouds(objectives))).reshape(-1, objectives)
    maximise = data.draw(st.lists(st.booleans(), min_size=objectives, max_size=objectives))
    signs, corner = np.where(maximise, -1.0, 1.0), np.full(objectives, 5.0)
    cubes = np.stack(np.meshgrid(*[np.arange(5)] * objectives), -1).reshape(-1, objectives)
    covered = [0]
    below = np.zeros(len(cubes), bool)
    for point in points:
        below |= (point <= cubes).all(axis=1)  # never with a NaN
        covered.append(below.sum())
    history = hypervolume_history(points * signs, corner * signs, maximise)
    assert history.tolist() == covered[1:]
    assert hypervolume(points * signs, corner * signs, maximise) == covered[-1]


def test_knee_is_the_corner_whatever_the_units() -> None:
    cost = np.array([100.0, 200.0, 300.0, 800.0, 250.0])
    quality = np.array([0.40, 0.88, 0.90, 0.92, 0.60])
    assert knee(np.stack([quality, cost], axis=1), (True, False)) == 1
    assert knee(np.stack([quality, cost * 1e6], axis=1), (True, False)) == 1
    assert knee(np.stack([cost, quality], axis=1), (False, True)) == 1


def test_knee_without_a_corner_is_the_best_first_objective() -> None:
    line = [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]
    assert knee(line, (True, False)) == 2
    assert knee([(0.2, 1.0), (0.3, 2.0)], (True, False)) == 1
    assert knee([(math.nan, 1.0), (0.3, 2.0), (0.5, math.inf)], (True, False)) == 1
    with pytest.raises(ValueError, match="finite"):
        knee([(math.nan, 1.0)])


@given(points=clouds(2).filter(lambda p: any(not math.isnan(x + y) for x, y in p)))
@settings(max_examples=100, deadline=None)
def test_knee_is_on_the_front(points: list[list[float]]) -> None:
    assert non_dominated(points)[knee(points)]


def test_cheapest_within_noise_takes_the_cheaper_of_the_indistinguishable() -> None:
    values, stderr, cost = [0.90, 0.89, 0.87, 0.50], [0.02, 0.01, 0.5, 0.9], [700.0, 400.0, 200.0, 10.0]
    assert cheapest_within_noise(values, stderr, cost) == 1
    assert cheapest_within_noise(values, stderr, cost, errors=0.0) == 0
    assert cheapest_within_noise(values, stderr, cost, errors=2.0) == 2
    # equal values: the cheaper one; equal costs: the better one; missing ones are left out
    assert cheapest_within_noise([0.9, 0.9], [0.0, 0.0], [2.0, 1.0]) == 1
    assert cheapest_within_noise([0.89, 0.9], [0.1, 0.1], [1.0, 1.0]) == 1
    assert cheapest_within_noise([0.9, math.nan, 0.9], [math.nan] * 3, [2.0, 1.0, math.nan]) == 0
    with pytest.raises(ValueError, match="no candidate"):
        cheapest_within_noise([math.nan], [0.1], [1.0])
    with pytest.raises(ValueError, match="length"):
        cheapest_within_noise([0.1], [0.1, 0.2], [1.0])


@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.floats(1, 9)), min_size=1, max_size=12),
    errors=st.floats(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_cheapest_within_noise_has_no_cheaper_rival(
    rows: list[tuple[float, float, float]], errors: float
) -> None:
    values, stderr, cost = map(np.array, zip(*rows, strict=True))
    chosen = cheapest_within_noise(values, stderr, cost, errors)
    # the noise bar of the best value; with several best ones, that of the cheapest of them
    top = min(np.flatnonzero(values == values.max()), key=lambda i: cost[i])
    bar = values[top] - errors * stderr[top]
    assert values[chosen] >= bar
    assert not (cost[values >= bar] < cost[chosen]).any()


def test_the_history_of_a_hypervolume_is_that_of_its_prefixes() -> None:
    points = np.random.default_rng(3).random((40, 2))
    points[7] = np.nan
    history = hypervolume_history(points, (1, 1))
    assert history == pytest.approx([hypervolume(points[: i + 1], (1, 1)) for i in range(40)])
    assert history[-1] > history[5] > 0


def test_spread_out_keeps_the_ends_and_drops_the_crowded() -> None:
    line = [(0.0, 9.0), (0.1, 8.9), (4.0, 5.0), (4.1, 4.9), (9.0, 0.0)]
    assert spread_out(line, 5) == [0, 1, 2, 3, 4]
    assert set(spread_out(line, 3)) - {2, 3} == {0, 4}
    assert spread_out(np.array(line) * [1e6, 1.0], 3) == spread_out(line, 3)
