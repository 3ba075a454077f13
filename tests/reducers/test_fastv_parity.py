"""FastV against the authors' code."""

import pytest

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "fastv"))
def test_fastv_parity(case: Case) -> None:
    start, n = case.params["sys_len"], case.params["n_vis"]
    attention = case["in_attn_last_row"][None, :, start : start + n]
    view = TokenView(attention.new_zeros(1, n, 1), signals={"last_attention": attention})
    assignment = make_reducer("fastv").assign(view, case.params["keep"])
    assert assignment.one_hot
    kept = case["out_keep_sorted"]
    assert (assignment.anchors[0] + start).tolist() == kept[(kept >= start) & (kept < start + n)].tolist()
    assert sorted(case["out_topk_desc"].tolist()) == (assignment.anchors[0] + start).tolist()
