"""FEATHER's score and its two stages against the authors' code."""

import pytest
import torch

from autotc import kernels
from autotc.reducer import TokenView, make_reducer
from autotc.scoring import heads
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "feather"))
def test_feather_parity(case: Case) -> None:
    side, knobs = case.params["grid"], case.params
    scores, first = case["in_score1"], case["out_keep1_rel"]
    view = TokenView(torch.zeros(1, side * side, 1), signals={"content_attention": scores[None, None]})
    one = make_reducer("feather", {"stride": knobs["stride"]}).assign(view, len(first))
    assert one.anchors[0].tolist() == first.tolist()
    second = int(len(first) * knobs["keep_ratio"] ** 2)
    view = TokenView(
        torch.zeros(1, len(first), 1),
        grids=[(1, side, side)],
        source=first[None],
        signals={"content_attention": case["in_score2"][None, None]},
    )
    two = make_reducer("feather", {"stride": 0}).assign(view, second)
    assert first[two.anchors[0]].tolist() == case["out_keep2_rel_original"].tolist()


@pytest.mark.parametrize("case", cases("llm", "feather_score"))
def test_feather_score_parity(case: Case) -> None:
    hidden, start, n = case["in_normed_hidden"], case.params["v_start"], case.params["n_vis"]
    q = (hidden[:, -1] @ case["in_Wq"].T).view(1, case.params["heads"], -1)
    k = hidden @ case["in_Wk"].T
    k = k.view(1, k.shape[1], case.params["kv_heads"], -1).transpose(1, 2)[:, :, start : start + n]
    row = kernels.content_attention(q, k, torch.ones(1, n, dtype=torch.bool), q.shape[-1] ** -0.5)
    torch.testing.assert_close(heads(row)[0], case["out_score"], atol=1e-4, rtol=0)


def grid_view(source: list[int], side: int) -> TokenView:
    """A view whose last tokens are attended to most."""
    scores = torch.arange(len(source)).float()[None, None]
    return TokenView(
        torch.zeros(1, len(source), 1),
        grids=[(1, side, side)],
        source=torch.tensor([source]),
        signals={"content_attention": scores},
    )


def test_the_grid_is_that_of_the_original_image() -> None:
    # of the grid 0, 3, 18, 21 (stride 3 of 6 x 6) one token has left before
    kept = make_reducer("feather").assign(grid_view([0, 1, 2, 4, 18, 20, 21, 35], 6), 4).anchors[0].tolist()
    assert kept == [0, 4, 6, 7]


def test_a_grid_too_large_for_the_budget_gets_wider() -> None:
    view = grid_view(list(range(36)), 6)
    assert make_reducer("feather").assign(view, 4).anchors[0].tolist() == [0, 3, 18, 21]
    # four don't fit in three; at stride 4 and 5 there are four, at 6 one
    assert make_reducer("feather").assign(view, 3).anchors[0].tolist() == [0, 34, 35]
    assert make_reducer("feather").assign(view, 1).anchors[0].tolist() == [35]
