"""TRIM against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "trim"))
def test_trim_parity(case: Case) -> None:
    x = case["in_features"]
    # the post-norm and the projection into CLIP's space are the identity in these cases
    view = TokenView(x, signals={"clip_text": case["in_text"], "clip_patches": x})
    for row, count in enumerate(case["out_count"].tolist()):
        if case.params["k"] > 0:
            assert count == int(x.shape[1] * case.params["k"]) + 1
        assignment = make_reducer("trim").assign(view, count)
        out, theirs = assignment.apply(x)[row], case["out_tokens"][row, :count]
        mean = (assignment.dense()[row] > 0).sum(1) > 1
        # theirs: the mean of the dropped tokens last, all rounded to float16
        out = torch.cat((out[~mean], out[mean]))
        torch.testing.assert_close(out, theirs, rtol=2e-3, atol=2e-3)
