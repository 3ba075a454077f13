"""HiRED against the authors' code, for one view and for tiles."""

from math import isqrt

import pytest
import torch
from torch import Tensor

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.hired import tile_shares
from tests.reducers.golden_cases import Case, cases

FIRST, LATE = "first_cls_attention", "cls_attention"


def tiled(first: Tensor, late: Tensor) -> TokenView:
    """Return base view and map of an image from its tiles' rows (P, H, N); the crops stand beside each other."""
    p, h, n = first.shape
    side = isqrt(n)
    assert side * side == n

    def stitched(rows: Tensor) -> Tensor:
        crops = rows[1:].view(p - 1, h, side, side).permute(1, 2, 0, 3).reshape(h, side, -1)
        return torch.nn.functional.pad(crops, (0, 1)).flatten(1)  # a newline has no attention

    signals = {}
    for name, rows in ((FIRST, first), (LATE, late)):
        crops = stitched(rows)
        base = torch.nn.functional.pad(rows[0], (0, crops.shape[1] - n), value=9.0)
        signals[name] = torch.stack([base, crops])
    m = side * ((p - 1) * side + 1)
    return TokenView(
        torch.zeros(2, m, 1),
        valid=torch.arange(m)[None] < torch.tensor([[n], [m]]),
        grids=[(1, side, side), (1, side, (p - 1) * side + 1)],
        signals=signals,
        group=torch.tensor([7, 7]),
    )


@pytest.mark.parametrize("case", cases("vision", "hired"))
def test_hired_tiles_parity(case: Case) -> None:
    alpha = float(case.params["alpha"])
    at = 0
    for image, p in enumerate(case.params["num_patches"]):
        first, late = (
            case[name][at : at + p, :, 1:] for name in ("in_cls_row_first_layer", "in_cls_row_late_layer")
        )
        at += p
        mask = case[f"out_mask_image{image}"]
        n, side = mask.shape[1], isqrt(mask.shape[1])
        total = int(p * n * case.params["token_budget_rate"])
        if p == 1:  # their share for tiles is lost; a lone view of ours keeps what it is asked for
            view = TokenView(torch.zeros(1, n, 1), signals={FIRST: first, LATE: late})
            got = make_reducer("hired").assign(view, int(mask.sum())).anchors[0]
            assert got.tolist() == mask[0].nonzero()[:, 0].tolist()
            continue
        view = tiled(first, late)
        budget = torch.tensor([min(total, n), total - min(total, n)])
        crops = mask[1:].view(p - 1, side, side).transpose(0, 1).reshape(side, -1)
        expected = [mask[0], torch.nn.functional.pad(crops, (0, 1)).flatten()]
        got = make_reducer("hired", {"alpha": alpha, "fill": False}).assign(view, budget)
        full = make_reducer("hired", {"alpha": alpha}).assign(view, budget)
        assert int(full.kept.sum()) == total
        for row in (0, 1):
            places = expected[row].nonzero()[:, 0].tolist()
            assert got.anchors[row, : got.kept[row]].tolist() == places
            assert set(places) <= set(full.anchors[row, : full.kept[row]].tolist())


@pytest.mark.parametrize("case", cases("vision", "hired_single"))
def test_hired_single_parity(case: Case) -> None:
    late, mask = case["in_cls_row"][:, :, 1:], case["out_keep_mask"].reshape(len(case["in_cls_row"]), -1)
    n = mask.shape[1]
    view = TokenView(torch.zeros(len(mask), n, 1), signals={FIRST: torch.rand(late.shape), LATE: late})
    assignment = make_reducer("hired").assign(view, int(n * case.params["token_budget_rate"]))
    for row in range(len(mask)):
        assert assignment.anchors[row].tolist() == mask[row].nonzero()[:, 0].tolist()


def test_tile_shares_follow_the_marks() -> None:
    early = torch.tensor([0.1, 0.9, 0.8, 0.1, 0.7, 0.1])
    # 1, 2 and 4 are marked: one in each half and one more in the first
    assert tile_shares(early, 2, 3, 10).tolist() == [6, 3]
    assert tile_shares(early, 3, 3, 9).tolist() == [3, 3, 3]
    assert tile_shares(early, 2, 0, 5).tolist() == [0, 0]


@pytest.mark.parametrize("total", [2, 9, 31, 80, 104])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_hired_moves_budget_but_keeps_the_sum(total: int, alpha: float) -> None:
    random = torch.Generator().manual_seed(total)
    first, late = torch.rand(2, 5, 2, 16, generator=random).unbind(0)
    view = tiled(first, late)
    assert view.counts.tolist() == [16, 68]
    pair = torch.tensor([total // 5, total - total // 5]).minimum(view.counts)
    kept = make_reducer("hired", {"alpha": alpha}).assign(view, pair).kept
    assert int(kept.sum()) == int(pair.sum()) and (kept <= view.counts).all()
    if 20 < total < 60:
        assert kept[0] == min(16, int(int(pair.sum()) * alpha))
    newlines = make_reducer("hired", {"alpha": alpha}).assign(view, pair).anchors[1, : kept[1]] % 17 == 16
    assert not newlines.any() or kept[1] == 64 + newlines.sum()  # they come last


def test_hired_lone_newline_beside_a_base_view() -> None:
    signals = {name: torch.rand(2, 1, 16) * torch.tensor([1.0, 0.0])[:, None, None] for name in (FIRST, LATE)}
    valid = torch.arange(16)[None] < torch.tensor([[16], [1]])
    view = TokenView(
        torch.zeros(2, 16, 1),
        valid=valid,
        grids=[(1, 4, 4), (1, 1, 1)],
        signals=signals,
        group=torch.zeros(2, dtype=torch.long),
    )
    assert make_reducer("hired").assign(view, torch.tensor([4, 1])).kept.tolist() == [4, 1]
