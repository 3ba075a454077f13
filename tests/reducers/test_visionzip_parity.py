"""VisionZip against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "visionzip"))
def test_visionzip_parity(case: Case) -> None:
    dominant, contextual = case.params["dominant"], case.params["contextual"]
    x = case["in_hidden"][:, 1:]
    # the authors emit the CLS row as well; here it is no visual token
    signals = {"cls_attention": case["in_attn_cls_row"][..., 1:], "vision_keys": case["in_key_mean"][:, 1:]}
    budget = dominant + contextual
    reducer = make_reducer("visionzip", {"contextual": contextual / budget})
    assignment = reducer.assign(TokenView(x, signals=signals), budget)
    sums = assignment.dense().sum(-1)
    for row in range(len(x)):
        merged = sums[row] > 1.5  # a token of its own plus a mean
        chosen = (case["out_selected_incl_cls"][row, 1:] - 1).sort().values
        plain = torch.isin(assignment.anchors[row], chosen)
        assert assignment.anchors[row, plain].tolist() == chosen.tolist()
        assert not (merged & plain).any()
        out = assignment.apply(x)[row]
        # theirs: dominant tokens first, then contextual ones, each in the image's order
        theirs = case["out_tokens"][row, 1:]
        torch.testing.assert_close(torch.cat((out[plain], out[~plain])), theirs, rtol=1e-5, atol=1e-5)
