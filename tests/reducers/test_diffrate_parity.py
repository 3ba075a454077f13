"""DiffRate's pruning and merging against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "diffrate"))
def test_diffrate_parity(case: Case) -> None:
    x, attention = case["in_x"][:, 1:], case["in_cls_attn"]
    n = x.shape[1]
    # their counts include the CLS row
    left, budget = case.params["prune_keep"] - 1, case.params["merge_keep"] - 1
    share = (n - left) / (n - budget) if n > budget else 0.0
    view = TokenView(x, prefix=1, signals={"block_cls_attention": attention[:, None]})
    assignment = make_reducer("diffrate", {"dropped": share}).assign(view, budget)
    out = assignment.apply(x)
    for row in range(len(x)):
        chosen = attention[row].argsort(descending=True, stable=True)[:budget]
        order = chosen.argsort()  # theirs are in the order of attention
        assert assignment.anchors[row].tolist() == chosen[order].tolist()
        torch.testing.assert_close(out[row], case["out_x"][row, 1:][order], rtol=1e-4, atol=1e-5)
    # sizes: theirs add each part times its cosine, which no assignment says; here a part counts in full
    assert assignment.sizes(view.size).sum(1).tolist() == [left] * len(x)
