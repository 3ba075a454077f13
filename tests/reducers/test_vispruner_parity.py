"""VisPruner against the authors' code."""

import pytest

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "vispruner"))
def test_vispruner_parity(case: Case) -> None:
    x, mask = case["in_features"], case["out_keep_mask"]
    view = TokenView(x, signals={"cls_attention": case["in_cls_attn_per_head"], "features": x})
    params = {"important": case.params["important_ratio"], "step": case.params["prune_step"]}
    assignment = make_reducer("vispruner", params).assign(view, case.params["keep"])
    assert assignment.one_hot
    for row in range(len(x)):
        assert assignment.anchors[row].tolist() == mask[row].nonzero()[:, 0].tolist()
