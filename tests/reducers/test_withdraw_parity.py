"""VTW's depth rule against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.withdraw import depth, divergence
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "vtw_criterion"))
def test_withdraw_parity(case: Case) -> None:
    full, withdrawn = case["in_logits_full"], case["in_logits_withdrawn"]
    torch.testing.assert_close(divergence(full, withdrawn), case["out_kl"], atol=1e-4, rtol=0)
    found = depth(full, withdrawn, case.params["eta"], case.params["first_candidate_layer"])
    assert found == int(case["out_k"])


def test_no_depth_below_eta_says_the_smallest() -> None:
    with pytest.raises(ValueError, match="smallest is"):
        depth(torch.tensor([[0.0, 9.0]]), torch.tensor([[[9.0, 0.0]]]))


def test_everything_leaves() -> None:
    assignment = make_reducer("withdraw").assign(TokenView(torch.randn(2, 5, 3)), 0)
    assert assignment.kept.tolist() == [0, 0]
    assert assignment.apply(torch.randn(2, 5, 3)).shape == (2, 0, 3)
