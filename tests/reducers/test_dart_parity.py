"""DART against the authors' code, in the visiting order of their Python set."""

import math

import pytest

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "dart"))
def test_dart_parity(case: Case) -> None:
    knobs = case.params
    start, n = knobs["v_start"], knobs["n_vis"]
    end, pivots = start + n, knobs["pivot_image"] + knobs["pivot_text"]
    nominal = knobs["max_num_trunction"] or n * (1 - knobs["reduction_ratio"])
    budget = knobs["pivot_image"] + pivots * math.ceil(nominal // pivots)
    state, keys = case["in_normed_state"], case["in_keys"]
    view = TokenView(
        state[:, start:end],
        signals={
            "keys": keys[:, :, start:end],
            "text_keys": keys[:, :, end:],
            "normed": state[:, start:end],
            "text_normed": state[:, end:],
        },
    )
    reducer = make_reducer(
        "dart", {"pivot_image": knobs["pivot_image"], "pivot_text": knobs["pivot_text"], "first": start}
    )
    assignment = reducer.assign(view, budget)
    assert (assignment.anchors[0] + start).tolist() == case["out_retained_sorted"].tolist()
