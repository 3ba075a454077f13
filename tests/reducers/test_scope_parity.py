"""SCOPE against the authors' code."""

import pytest

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "scope"))
def test_scope_parity(case: Case) -> None:
    x, picked = case["in_features"], case["out_selected_order"]
    # the attention arrives summed over heads
    view = TokenView(x, signals={"cls_attention": case["in_cls_attn_head_sum"][:, None], "features": x})
    params = {"alpha": float(case.params["alpha"]), "combined": case.params["combined"]}
    assignment = make_reducer("scope", params).assign(view, case.params["keep"])
    assert assignment.one_hot
    for row in range(len(x)):
        assert assignment.anchors[row].tolist() == sorted(picked[row].tolist())
