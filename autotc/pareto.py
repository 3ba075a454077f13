"""Pareto fronts of plain arrays: who is on the front, how much it covers, which member to take.

Points are (N, M): N candidates, M objectives. Each objective is to be maximised or minimised, said by
`maximise`: one bool for all, or one a column. A candidate with a NaN anywhere is not measured: it is never
on a front, covers nothing, and is never chosen.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def non_dominated(points: npt.ArrayLike, maximise: bool | Sequence[bool] = False) -> BoolArray:
    """Return which points no other point dominates.

    A point dominates another when it is at least as good in every objective and better in one. Of equal
    points only the first is on the front.

    Args:
        points: (N, M).
        maximise: per objective, or one for all.

    Returns:
        (N,) mask.
    """
    losses, measured = _losses(points, maximise)
    mask = np.zeros(len(losses), dtype=np.bool_)
    indices = np.flatnonzero(measured)
    # In lexicographic order (the earlier of equal points first) a point can only be dominated, or repeated,
    # by one that comes before it.
    keys = [indices, *(losses[indices, j] for j in reversed(range(losses.shape[1])))]
    order = indices[np.lexsort(keys)]
    if losses.shape[1] == 2:
        best = np.inf
        for i in order:
            # the first point of all is on the front even when its second objective is infinitely bad
            if losses[i, 1] < best or not mask.any():
                mask[i] = True
                best = losses[i, 1]
        return mask
    if losses.shape[1] == 3:
        mask[order[_staircase(losses[order, 1], losses[order, 2])]] = True
        return mask
    front = np.empty((0, losses.shape[1]))
    for i in order:
        if not bool((front <= losses[i]).all(axis=1).any()):
            mask[i] = True
            front = np.vstack([front, losses[i]])
    return mask


def _staircase(second: FloatArray, third: FloatArray) -> list[int]:
    # Of points sorted by their first objective, those that no earlier one beats in the other two. What the earlier
    # ones beat is the area above a staircase: steps with rising second and falling third objective.
    steps: list[float] = []
    heights: list[float] = []
    found: list[int] = []
    for i, (x, y) in enumerate(zip(second.tolist(), third.tolist(), strict=True)):
        place = bisect_right(steps, x)
        if place and heights[place - 1] <= y:
            continue
        found.append(i)
        start = bisect_left(steps, x)
        stop = start
        while stop < len(steps) and heights[stop] >= y:
            stop += 1
        steps[start:stop], heights[start:stop] = [x], [y]
    return found


def hypervolume_history(
    points: npt.ArrayLike, reference: Sequence[float], maximise: bool | Sequence[bool] = False
) -> FloatArray:
    """Return what `hypervolume` gives for the first point, the first two, and so on.

    Args:
        points: (N, M), in the order in which they were met.
        reference, maximise: as for `hypervolume`.

    Returns:
        (N,), never falling.
    """
    losses, corner = _inside(points, reference, maximise)
    history, volume = np.zeros(len(losses)), 0.0
    front = np.empty((0, losses.shape[1]))
    for i, point in enumerate(losses):
        if not np.isnan(point).any() and not bool((front <= point).all(axis=1).any()):
            volume += _own(point, front, corner)
            front = np.vstack([front[~(point <= front).all(axis=1)], point])
        history[i] = volume
    return history


def hypervolume(
    points: npt.ArrayLike, reference: Sequence[float], maximise: bool | Sequence[bool] = False
) -> float:
    """Return the exact volume that points dominate, up to a reference point: with two objectives an area.

    Args:
        points: (N, M), M >= 2; those that are not better than the reference in every objective add nothing.
        reference: the worst corner, in the units of the points.
        maximise: per objective, or one for all.
    """
    losses, corner = _inside(points, reference, maximise)
    return _volume(losses[non_dominated(losses)], corner)


def _inside(
    points: npt.ArrayLike, reference: Sequence[float], maximise: bool | Sequence[bool]
) -> tuple[FloatArray, FloatArray]:
    # losses and the corner; rows of points that add nothing are NaN
    losses, _ = _losses(points, maximise)
    if losses.shape[1] < 2 or len(reference) != losses.shape[1]:
        raise ValueError(
            f"hypervolume: 2 objectives are needed at least, and a reference for each; got {losses.shape[1]} and "
            f"{len(reference)}"
        )
    corner = _losses([list(reference)], maximise)[0][0]
    counts = (losses < corner).all(axis=1)  # False where one is NaN
    return np.where(counts[:, None], losses, np.nan), corner


def _volume(front: FloatArray, corner: FloatArray) -> float:
    # of points inside the corner, none of which dominates another
    if not len(front):
        return 0.0
    if front.shape[1] == 2:
        front = front[np.argsort(front[:, 0])]
        # left to right, each point adds the strip between its own height and its left neighbour's
        heights = np.concatenate([corner[1:], front[:-1, 1]])
        return float(((corner[0] - front[:, 0]) * (heights - front[:, 1])).sum())
    # the worst in the last objective first: those behind it reach farther there than its own box does
    front = front[np.argsort(-front[:, -1], kind="stable")]
    return float(
        sum(
            (corner[-1] - point[-1]) * _own(point[:-1], front[i + 1 :, :-1], corner[:-1])
            for i, point in enumerate(front)
        )
    )


def _own(point: FloatArray, others: FloatArray, corner: FloatArray) -> float:
    # the volume that a point dominates and none of the others does
    clipped = np.maximum(others, point)
    return float(np.prod(corner - point)) - _volume(clipped[non_dominated(clipped)], corner)


def spread_out(points: npt.ArrayLike, count: int) -> list[int]:
    """Return the indices of `count` points that lie far apart: one by one, the most crowded is left out.

    Crowding is that of NSGA-II (Deb et al., 2002): in each objective the distance between a point's two neighbours
    as a share of the range, summed; the ends of each objective count as infinitely far.

    Args:
        points: (N, M), each finite.
        count: how many to keep.
    """
    values = np.asarray(points, dtype=np.float64)
    left = list(range(len(values)))
    while len(left) > count:
        distance = np.zeros(len(left))
        for column in values[left].T:
            order = np.argsort(column, kind="stable")
            span = (column[order[-1]] - column[order[0]]) or 1.0
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
            distance[order[[0, -1]]] = np.inf
        del left[int(np.argmin(distance))]
    return left


def knee(points: npt.ArrayLike, maximise: bool | Sequence[bool] = False) -> int:
    """Return the index of the knee: the front member farthest, towards better, from its ends' line.

    Objectives are scaled to the front's own range first. With one or two members, or none beyond the line,
    it is the member with the best first objective.

    Args:
        points: (N, 2), dominated points allowed.
        maximise: per objective, or one for both.

    Raises:
        ValueError: not two objectives, or no finite point.
    """
    losses, _ = _losses(points, maximise)
    finite = np.flatnonzero(np.isfinite(losses).all(axis=1))
    if losses.shape[1] != 2 or not len(finite):
        raise ValueError("knee: at least one finite point with 2 objectives is needed")
    members = finite[non_dominated(losses[finite])]
    members = members[np.argsort(losses[members, 0])]
    front = losses[members]
    if len(members) < 3:
        return int(members[0])
    span = front.max(axis=0) - front.min(axis=0)
    scaled = (front - front.min(axis=0)) / span
    # the line between the ends is now x + y = 1; better is below it
    gain = 1.0 - scaled.sum(axis=1)
    best = int(np.argmax(gain))
    return int(members[best]) if gain[best] > 1e-12 else int(members[0])


def cheapest_within_noise(
    values: npt.ArrayLike, stderr: npt.ArrayLike, cost: npt.ArrayLike, errors: float = 1.0
) -> int:
    """Return the index of the cheapest candidate that the best one does not clearly beat.

    The one-standard-error rule: the best value less `errors` times its own standard error is good enough. The
    candidates' own errors do not count, or a badly measured one would always qualify.

    Args:
        values: (N,), larger is better.
        stderr: (N,), of the values; NaN counts as 0.
        cost: (N,), smaller is better.
        errors: how many standard errors count as noise.

    Raises:
        ValueError: nothing is measured.
    """
    value, error, price = (np.asarray(a, dtype=np.float64).ravel() for a in (values, stderr, cost))
    if not len(value) == len(error) == len(price):
        raise ValueError(
            f"values, stderr and cost differ in length: {len(value)}, {len(error)}, {len(price)}"
        )
    measured = ~(np.isnan(value) | np.isnan(price))
    if not measured.any():
        raise ValueError("cheapest_within_noise: no candidate has both a value and a cost")
    candidates = np.flatnonzero(measured)
    top = candidates[np.lexsort([price[candidates], -value[candidates]])[0]]
    bar = value[top] - errors * np.nan_to_num(error[top])
    enough = candidates[value[candidates] >= bar]
    # of equally cheap ones the better
    return int(enough[np.lexsort([-value[enough], price[enough]])[0]])


def _losses(points: npt.ArrayLike, maximise: bool | Sequence[bool]) -> tuple[FloatArray, BoolArray]:
    # all objectives turned into minimisation, and which points are measured
    values = np.asarray(points, dtype=np.float64)
    if values.size == 0 and values.ndim < 2:
        values = values.reshape(0, len(maximise) if isinstance(maximise, Sequence) else 2)
    if values.ndim != 2:
        raise ValueError(f"points must be (N, objectives), got shape {values.shape}")
    directions = [maximise] * values.shape[1] if isinstance(maximise, bool) else list(maximise)
    if len(directions) != values.shape[1]:
        raise ValueError(f"maximise has {len(directions)} entries for {values.shape[1]} objectives")
    losses: FloatArray = values * np.where(directions, -1.0, 1.0)
    return losses, np.asarray(~np.isnan(losses).any(axis=1), dtype=np.bool_)
