"""SAINT's language-model rule against the authors' code."""

import pytest

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "saint"))
def test_saint_parity(case: Case) -> None:
    keys = case["in_keys_headmean"]
    n = keys.shape[1]
    knobs = {
        "threshold": case.params["sim_threshold"],
        "neighbours": case.params["K"],
        "gamma": case.params["gamma"],
    }
    reducer = make_reducer("saint", knobs)
    expected = case["out_kept_sorted"].tolist()
    # one image at a time: the authors' count is the mean of a batch
    for row, keep in enumerate(expected):
        view = TokenView(keys[row : row + 1], signals={"keys": keys[row : row + 1, None]})
        assignment = reducer.assign(view, n)
        if len(expected) == 1:
            assert assignment.anchors[0].tolist() == keep
        order, _ = reducer.round(keys[row] / keys[row].norm(dim=-1, keepdim=True))  # type: ignore[attr-defined]
        survivors = [place for place in order.tolist() if place in keep]
        assert survivors == [place for place in case["out_kept_raw_order"][row].tolist() if place % 2 == 0]
        assert reducer.assign(view, n // 3).kept.tolist() == [n // 3]
