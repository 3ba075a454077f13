"""What the reducers without a published rule promise: random, uniform, downsample."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.uniform import lattice


def view(counts: list[int], grids: list[tuple[int, int, int]], ids: list[int] | None = None) -> TokenView:
    n = max(counts)
    valid = torch.arange(n)[None] < torch.tensor(counts)[:, None]
    numbers = torch.tensor(ids if ids is not None else [0] * len(counts))
    return TokenView(torch.zeros(len(counts), n, 2), valid=valid, grids=grids, ids=numbers)


def kept(name: str, seen: TokenView, budget: int | list[int], **params: int) -> list[list[int]]:
    budget = budget if isinstance(budget, int) else torch.tensor(budget)  # type: ignore[assignment]
    assignment = make_reducer(name, params).assign(seen, budget)
    return [row[real].tolist() for row, real in zip(assignment.anchors, assignment.valid, strict=True)]


def test_random_does_not_depend_on_the_batch() -> None:
    pair = kept("random", view([36, 20], [(1, 6, 6), (1, 4, 5)], [7, 8]), [9, 5])
    assert pair[0] == kept("random", view([36], [(1, 6, 6)], [7]), 9)[0]
    assert pair[1] == kept("random", view([20], [(1, 4, 5)], [8]), 5)[0]


def test_random_differs_by_seed_example_and_image_and_spreads_evenly() -> None:
    many = view([576] * 400, [(1, 24, 24)] * 400, list(range(400)))
    rows = kept("random", many, 64)
    assert len({tuple(row) for row in rows}) == 400
    counts = torch.bincount(torch.tensor(rows).flatten(), minlength=576).float()
    # 400 draws of 64 of 576: 44.4 a token with a standard deviation of 6.3
    assert abs(float(counts.std()) - 6.3) < 1.0
    assert float(counts.max()) < 44.4 + 6 * 6.3
    assert kept("random", many, 64, seed=1) != rows
    other = view([576] * 400, [(1, 24, 24)] * 400, list(range(400)))
    other.image = torch.ones_like(other.image)
    assert kept("random", other, 64) != rows


def test_random_is_nested_over_stages() -> None:
    first = kept("random", view([36], [(1, 6, 6)], [3]), 18)[0]
    survivors = TokenView(torch.zeros(1, 18, 2), source=torch.tensor([first]), ids=torch.tensor([3]))
    again = [first[i] for i in kept("random", survivors, 6)[0]]
    assert again == kept("random", view([36], [(1, 6, 6)], [3]), 6)[0]


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.data())
def test_lattice_has_distinct_places_inside_the_grid(t: int, h: int, w: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, t * h * w))
    places = lattice(t, h, w, k)
    assert len(set(places)) == k
    assert all(0 <= a < t and 0 <= b < h and 0 <= c < w for a, b, c in places)


def test_uniform_takes_the_centres_of_equal_cells() -> None:
    seen = view([36, 16], [(1, 6, 6), (1, 4, 4)])
    assert kept("uniform", seen, [4, 4]) == [[7, 10, 25, 28], [5, 7, 13, 15]]


def test_uniform_after_a_cut_takes_near_neighbours_once() -> None:
    survivors = TokenView(torch.zeros(1, 4, 2), source=torch.tensor([[0, 7, 8, 35]]), grids=[(1, 6, 6)])
    assert kept("uniform", survivors, 4) == [[0, 1, 2, 3]]
    assert kept("uniform", survivors, 1) == [[2]]  # the middle of the grid is (3, 3)


def test_downsample_averages_the_cells_of_the_smaller_grid() -> None:
    seen = view([24, 16], [(1, 4, 6), (1, 4, 4)])
    x = torch.arange(48.0).view(2, 24, 1)
    assignment = make_reducer("downsample").assign(seen, torch.tensor([6, 5]))
    assert assignment.kept.tolist() == [6, 4]  # 2 x 3 and 2 x 2
    assert assignment.apply(x)[0, :, 0].tolist() == [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]
    assert assignment.sizes(seen.valid.float()).sum(1).tolist() == [24.0, 16.0]


def test_downsample_never_exceeds_a_budget_below_the_frames() -> None:
    assignment = make_reducer("downsample").assign(view([32], [(4, 2, 4)]), 3)
    assert 1 <= int(assignment.kept) <= 3
