"""iLLaVA's tower stage against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "illava_vit"))
def test_illava_parity(case: Case) -> None:
    x, attention = case["in_hidden"], case["in_attn"]
    view = TokenView(x, signals={"block_received_attention": attention.mean(2)})
    assignment = make_reducer("illava").assign(view, x.shape[1] - case.params["reduce_tokens"])
    # the authors round the merged token to float16
    torch.testing.assert_close(assignment.apply(x), case["out_tokens"], rtol=2e-3, atol=1e-3)
    merged = (assignment.dense() > 0).sum(-1) > 1
    assert merged.sum(1).tolist() == [1] * len(x)
    assert torch.equal(assignment.apply(x)[~merged], case["out_tokens"][~merged])
