"""DivPrune against the authors' code."""

import pytest

from autotc.reducer import TokenView, make_reducer
from autotc.scoring import farthest
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "divprune"))
def test_divprune_parity(case: Case) -> None:
    x, picked = case["in_features"][None], case["out_selected_order"].tolist()
    assert len(picked) == round(case.params["ratio"] * x.shape[1])  # the authors round half to even
    assert farthest(x, len(picked))[0].tolist() == picked
    assignment = make_reducer("divprune").assign(TokenView(x), len(picked))
    assert assignment.one_hot
    assert assignment.anchors[0].tolist() == sorted(picked)
