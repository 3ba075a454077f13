"""V2Drop against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "v2drop"))
def test_v2drop_parity(case: Case) -> None:
    start, n = case.params["sys_len"], case.params["n_vis"]
    image = slice(start, start + n)
    now, before = case["in_cur"][:, image], case["in_prev"][:, image]
    view = TokenView(now, signals={"hidden_before": before})
    budget = max(1, int(n * case.params["keep_ratio"]))
    assignment = make_reducer("v2drop").assign(view, budget)
    kept = case["out_keep_sorted"]
    assert (assignment.anchors[0] + start).tolist() == kept[(kept >= start) & (kept < start + n)].tolist()
    assert sorted(case["out_topk_desc"].tolist()) == (assignment.anchors[0] + start).tolist()


def test_what_moves_stays_whatever_its_length() -> None:
    before = torch.tensor([[[100.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])
    now = torch.tensor([[[100.1, 0.0], [2.0, 0.0], [0.0, 2.5]]])
    view = TokenView(now.half(), signals={"hidden_before": before.half()})
    assert make_reducer("v2drop").assign(view, 2).anchors.tolist() == [[1, 2]]
