"""VScan's stage before the language model against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.vscan import windows
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "vscan"))
def test_vscan_parity(case: Case) -> None:
    x, mask = case["in_features"], case["out_keep_mask"]
    signals = {"early_cls_attention": case["in_cls_attn_layer6"], "cls_attention": case["in_cls_attn_deep"]}
    view = TokenView(x, signals=signals)
    params = {"local": 1 - case.params["global_ratio"], "window": case.params["window"]}
    # of their budget they keep what their windows' equal shares leave of it; asked for that, we choose the same
    kept = int(mask[0].sum())
    assignment = make_reducer("vscan", params).assign(view, kept)
    out = assignment.apply(x)
    at = 0
    for row in range(len(x)):
        assert assignment.anchors[row].tolist() == mask[row].nonzero()[:, 0].tolist()
        theirs = case["out_tokens"].reshape(-1, x.shape[2])[at : at + kept]
        torch.testing.assert_close(out[row], theirs, rtol=1e-4, atol=1e-5)
        at += kept
    assert make_reducer("vscan", params).assign(view, case.params["keep"]).kept.tolist() == (
        [case.params["keep"]] * len(x)
    )


def test_windows_at_the_end_are_smaller() -> None:
    source = torch.tensor([[0, 4, 5, 7, 9, 17], [0, 1, 2, 3, 0, 0]])
    view = TokenView(torch.zeros(2, 6, 1), source=source, grids=[(1, 3, 6), (2, 1, 2)])
    window, number = windows(view, 2)
    assert number.tolist() == [6, 2]
    assert window[0].tolist() == [0, 2, 2, 0, 1, 5]
    assert window[1, :4].tolist() == [0, 0, 1, 1]


def test_vscan_takes_the_best_of_each_window() -> None:
    early, late = torch.zeros(1, 1, 16), torch.linspace(0, 1, 16)[None, None]
    early[0, 0, [1, 2, 8, 11]] = 1.0  # one in each quarter
    signals = {"early_cls_attention": early, "cls_attention": late}
    view = TokenView(torch.eye(16)[None], signals=signals)
    assignment = make_reducer("vscan", {"window": 2}).assign(view, 9)
    assert assignment.anchors.tolist() == [[1, 2, 8, 10, 11, 12, 13, 14, 15]]
    assert assignment.sizes(view.size).sum() == 16
