"""ATS against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.ats import sample
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "ats"))
def test_ats_parity(case: Case) -> None:
    signals = {
        "block_cls_attention": case["in_attn_cls_row"][:, :, 1:],
        "block_values": case["in_v"][:, :, 1:],
    }
    view = TokenView(case["in_x"][:, 1:], prefix=1, signals=signals)
    assignment = make_reducer("ats").assign(view, case.params["n_ref_tokens"] - 1)
    assert assignment.one_hot
    for row, theirs in enumerate(case["out_kept_original_index"]):
        # CLS first, empty slots are -1
        assert assignment.anchors[row, : assignment.kept[row]].tolist() == sorted(
            i - 1 for i in theirs.tolist() if i > 0
        )
        assert int(case["out_policy"][row].sum()) == assignment.kept[row] + 1


def test_draws_meet_important_tokens_once() -> None:
    assert sample(torch.tensor([0.9, 0.02, 0.05, 0.03]), 4).tolist() == [True, False, True, True]
    assert sample(torch.tensor([0.1, 0.2, 0.3, 0.4]), 1).tolist() == [False, False, False, True]
    assert sample(torch.tensor([1.0]), 1).tolist() == [True]
    assert sample(torch.zeros(3), 2).any()
    # the lowest token has no share of the curve
    even = sample(torch.full((9,), 1 / 9), 9)
    assert even.tolist() == [False] + [True] * 8
