"""AdaptInfer against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.adaptinfer import guided
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "adaptinfer"))
def test_adaptinfer_parity(case: Case) -> None:
    rows, n = case["in_text_rows_attn"][None], case.params["n_vis"]
    seen, text = rows[..., :n], rows[..., n:]
    torch.testing.assert_close(guided(seen, text), case["out_score"], atol=1e-4, rtol=0)
    view = TokenView(torch.zeros(1, n, 1), signals={"text_attention": seen, "text_self_attention": text})
    assignment = make_reducer("adaptinfer").assign(view, case.params["keep"])
    assert assignment.anchors[0].tolist() == case["out_keep_sorted"].tolist()


def test_heads_weight_their_own_text() -> None:
    # head 0 ties text 0 to itself, head 1 text 1: each head's other row counts for nothing
    text = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]])
    seen = torch.tensor([[[[0.1, 0.2], [9.0, 0.0]], [[9.0, 0.0], [0.1, 0.2]]]])
    torch.testing.assert_close(guided(seen, text), torch.tensor([[0.2, 0.4]]))
