"""FasterVLM against the authors' code."""

import pytest

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "fastervlm"))
def test_fastervlm_parity(case: Case) -> None:
    attention, mask = case["in_cls_attn_per_head"], case["out_keep_mask"]
    b, n = mask.shape
    view = TokenView(attention.new_zeros(b, n, 1), signals={"cls_attention": attention})
    assignment = make_reducer("fastervlm").assign(view, case.params["keep"])
    assert assignment.one_hot
    for row in range(b):
        assert assignment.anchors[row].tolist() == mask[row].nonzero()[:, 0].tolist()
