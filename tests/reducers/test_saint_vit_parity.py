"""SAINT's rule for the tower against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "saint_vit"))
def test_saint_vit_parity(case: Case) -> None:
    keys = case["in_keys"][:, 1:]  # theirs start with CLS, which counts in keep_num
    view = TokenView(keys, signals={"block_keys": keys}, prefix=1)
    reducer = make_reducer("saint_vit", {"part": case.params["r"]})
    kept = reducer.assign(view, case.params["keep_num"] - 1).anchors[0]
    assert kept.tolist() == case["out_kept_rel"].flatten().tolist()


def test_rounds_look_at_what_is_left() -> None:
    # three alike, two alike, one alone: all at once would take the three
    keys = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]])[None]
    view = TokenView(keys, signals={"block_keys": keys})
    assert make_reducer("saint_vit", {"part": 6}).assign(view, 5).anchors.tolist() == [[1, 2, 3, 4, 5]]
    by_one = make_reducer("saint_vit", {"part": 2}).assign(view, 3).anchors.tolist()
    assert by_one == [[3, 4, 5]]
