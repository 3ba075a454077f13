"""FOLDER (the function for any place) against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "folder"))
def test_folder_parity(case: Case) -> None:
    prefix = int(case.params["class_token"])
    x = case["in_x"][:, prefix:]
    view = TokenView(x, prefix=prefix)
    # the snapshot lengthens means after several rounds, and after one that leaves more than two thirds
    n, r = x.shape[1] + prefix, case.params["r"]
    lengthen = r > (n - 1) // 2 or r < (n - r) / 2
    assignment = make_reducer("folder", {"lengthen": lengthen}).assign(view, x.shape[1] - case.params["r"])
    # they restore the order of the tokens themselves
    torch.testing.assert_close(assignment.apply(x), case["out_x"][:, prefix:], rtol=1e-4, atol=1e-5)
    assert assignment.sizes(view.size).tolist() == case["out_size"][:, prefix:, 0].tolist()
