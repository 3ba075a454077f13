"""MustDrop's window merging against the authors' code, and its cap."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases
from tests.reducers.merging import assert_same_tokens


@pytest.mark.parametrize("case", cases("llm", "mustdrop_spatial"))
def test_mustdrop_window_parity(case: Case) -> None:
    knobs, x = case.params, case["in_x"][:, 1:]
    grid = (1, knobs["grid"], knobs["grid"])
    view = TokenView(x, grids=[grid] * len(x), prefix=1)
    reducer = make_reducer("mustdrop_window", {"window": knobs["window"], "threshold": knobs["threshold"]})
    assignment = reducer.assign(view, x.shape[1])
    out, sizes = assignment.apply(x, view.size), assignment.sizes(view.size)
    for row in range(len(x)):
        theirs, theirs_size = case["out_y"][row, 1:], case["out_size"][row, 1:, 0]
        order = assert_same_tokens(out[row], theirs)
        assert torch.equal(sizes[row], theirs_size[order])
        # the authors put merged windows first, by falling likeness, each where its last token was
        merged = sizes[row] > 1
        corner = knobs["window"] - 1
        places = assignment.anchors[row, merged]
        assert (places % grid[2] % knobs["window"] == corner).all()
        assert (places // grid[2] % knobs["window"] == corner).all()


def view_of_windows(noise: list[float]) -> TokenView:
    """A 6 x 6 image whose four windows are a common token plus noise of a given strength."""
    random = torch.Generator().manual_seed(0)
    x = torch.zeros(6, 6, 8)
    common = torch.randn(4, 8, generator=random)
    for i, strength in enumerate(noise):
        rows, columns = slice(i // 2 * 3, i // 2 * 3 + 3), slice(i % 2 * 3, i % 2 * 3 + 3)
        x[rows, columns] = common[i] + strength * torch.randn(3, 3, 8, generator=random)
    return TokenView(x.reshape(1, 36, 8))


@pytest.mark.parametrize(
    ("budget", "windows"),
    [(35, [1]), (28, [1]), (27, [1, 3]), (20, [1, 3]), (19, [0, 1, 3]), (4, [0, 1, 2, 3])],
)
def test_mustdrop_merges_until_the_budget_is_met(budget: int, windows: list[int]) -> None:
    view = view_of_windows([1.2, 0.01, 5.0, 0.6])
    assignment = make_reducer("mustdrop_window").assign(view, budget)
    assert int(assignment.kept) == 36 - 8 * len(windows)
    at = assignment.anchors[0, assignment.sizes(view.size)[0] == 9]
    assert at.tolist() == [[14, 17, 32, 35][i] for i in windows]


def test_mustdrop_windows_share_tokens_below_one_each() -> None:
    view = view_of_windows([1.0] * 4)
    assignment = make_reducer("mustdrop_window").assign(view, 2)
    upper, lower = assignment.dense(view.size)[0]
    torch.testing.assert_close(upper, torch.cat((torch.full((18,), 1 / 18), torch.zeros(18))))
    torch.testing.assert_close(lower, upper.flip(0))


def test_mustdrop_windows_are_those_of_the_grid_after_an_earlier_cut() -> None:
    full = view_of_windows([1.2, 0.01, 5.0, 0.6])
    left = torch.tensor([0, 3, 5, 9, 17, 20, 35])  # of window 1: 3, 5, 9, 17
    view = TokenView(
        full.x[:, left], grids=[(1, 6, 6)], source=left[None], size=torch.tensor([[1.0, 2, 1, 1, 4, 1, 1]])
    )
    assignment = make_reducer("mustdrop_window").assign(view, 6)
    assert assignment.anchors.tolist() == [[0, 4, 5, 6]]
    expected = (view.x[0, 1:5] * torch.tensor([2.0, 1, 1, 4])[:, None]).sum(0) / 8
    torch.testing.assert_close(assignment.apply(view.x, view.size)[0, 1], expected)
