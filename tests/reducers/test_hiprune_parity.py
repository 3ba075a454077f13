"""HiPrune against the authors' code, for LLaVA and for Qwen."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.hiprune import neighbours
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "hiprune_llava"))
def test_hiprune_llava_parity(case: Case) -> None:
    middle, deep = (case[name].mean(2)[..., 1:] for name in ("in_attn_object_layer", "in_attn_deep_layer"))
    mask, grid = case["out_keep_mask"], case.params["grid"]
    n = mask.shape[1]
    signals = {"middle_received_attention": middle, "received_attention": deep}
    view = TokenView(torch.zeros(*mask.shape, 1), grids=[(1, n // grid, grid)] * len(mask), signals=signals)
    # their total is shared by the tiles
    keep = case.params["total_retention"] // len(mask)
    assignment = make_reducer("hiprune", {"alpha": float(case.params["alpha"])}).assign(view, keep)
    for row in range(len(mask)):
        assert assignment.anchors[row].tolist() == mask[row].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("case", cases("vision", "hiprune_qwen"))
def test_hiprune_qwen_parity(case: Case) -> None:
    middle, deep, mask = case["in_object_layer_score"], case["in_deep_layer_score"], case["out_keep_mask"]
    signals = {"middle_received_attention": middle[None, None], "received_attention": deep[None, None]}
    h, w = case.params["merged_grid_hw"]
    view = TokenView(torch.zeros(1, len(mask), 1), grids=[(1, h, w)], signals=signals)
    params = {"alpha": float(case.params["alpha"])}
    count = round(len(mask) * case.params["retain"])
    theirs = make_reducer("hiprune", params | {"again": True}).assign(view, count)
    assert theirs.anchors[0].tolist() == mask.nonzero()[:, 0].tolist()
    # their fill may choose tokens twice, ours gives the rest of the budget to the next best
    ours = make_reducer("hiprune", params).assign(view, count)
    assert ours.kept.tolist() == [count]
    assert set(theirs.anchors[0].tolist()) <= set(ours.anchors[0].tolist())
    added = sorted(set(ours.anchors[0].tolist()) - set(theirs.anchors[0].tolist()))
    left = deep.masked_fill(mask, -1).argsort(descending=True)[: len(added)]
    assert added == sorted(left.tolist())


def test_neighbours_by_original_place() -> None:
    # a 3 x 4 image of which places 0, 4, 5, 6 and 11 are left, then a smaller one with padding
    source = torch.tensor([[0, 4, 5, 6, 11], [0, 1, 0, 0, 0]])
    valid = torch.tensor([[True] * 5, [True, True, False, False, False]])
    chosen = torch.tensor([[False, True, False, False, False], [False, True, False, False, False]])
    near = neighbours(chosen, source, valid, [(1, 3, 4), (1, 1, 2)])
    assert near.tolist() == [[True, False, True, False, False], [True, True, False, False, False]]
