"""AdaptPrune against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.adaptprune import centre
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "adaptprune"))
def test_adaptprune_parity(case: Case) -> None:
    knobs, side = case.params, case.params["grid"]
    prior = centre(side, side, knobs["center_sigma"])
    torch.testing.assert_close(prior, case["out_center_mask"], atol=1e-4, rtol=0)
    signals = {"last_attention": case["in_attn"][None, None], "keys": case["in_keys_unit"][None, None]}
    view = TokenView(case["in_keys_unit"][None], grids=[(1, side, side)], signals=signals)
    reducer = make_reducer(
        "adaptprune",
        {
            "center": knobs["center_sigma"],
            "reach": knobs["distance_limit"],
            "distance": knobs["distance_sigma"],
            "similarity": knobs["similarity_sigma"],
        },
    )
    order = case["out_selected_order"].tolist()
    for count in range(1, len(order) + 1, max(1, len(order) // 8)):
        assert reducer.assign(view, count).anchors[0].tolist() == sorted(order[:count])
    assert reducer.assign(view, knobs["keep"]).anchors[0].tolist() == sorted(order)
