"""MMTok against the authors' code."""

import pytest

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "mmtok"))
def test_mmtok_parity(case: Case) -> None:
    signals = {"features": case["in_clip"][None], "text_embeds": case["in_text"][None]}
    params = {
        "alpha": float(case.params["alpha"]),
        "text_temperature": case.params["tv_temp"],
        "image_temperature": case.params["vv_temp"],
    }
    view = TokenView(case["in_projected"][None], signals=signals)
    assignment = make_reducer("mmtok", params).assign(view, case.params["keep"])
    assert assignment.one_hot
    assert assignment.anchors[0].tolist() == case["out_indices"].tolist()
