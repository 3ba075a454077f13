"""G-Prune against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "gprune"))
def test_gprune_parity(case: Case) -> None:
    x, p = case["in_features"], case.params
    rows, columns = p["row"], p["col"]
    base = len(x) - rows * (columns + 1)
    place = torch.arange(len(x))
    newline = (place >= base) & ((place - base) % (columns + 1) == columns)
    params = {key: p[key] for key in ("similarity", "temperature", "iterations")}
    reducer = make_reducer("gprune", params)
    # theirs: the whole image and the map of its tiles one after the other, line ends always kept
    kept = place[newline].tolist()
    parts = (("base", place[:base]), ("tiles", place[base:][~newline[base:]]))
    for name, part in parts:
        view = TokenView(x[part][None])
        score = reducer.score(view.x, view.valid)[0]
        torch.testing.assert_close(score, case[f"out_score_{name}"], rtol=1e-3, atol=1e-5)
        assignment = reducer.assign(view, int(p["keep_ratio"] * len(part)))
        assert assignment.one_hot
        kept += part[assignment.anchors[0]].tolist()
    assert sorted(kept) == case["out_keep_indices"].tolist()
