"""GlobalCom2 against the authors' code."""

import pytest
import torch
from torch import Tensor

from autotc.anatomy import crop_map
from autotc.crops import crop_cells
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.globalcom2 import crop_ratios, crop_scores
from tests.reducers.golden_cases import Case, cases
from tests.reducers.merging import assert_same_tokens


def stitched(case: Case, crops: Tensor) -> Tensor:
    """Return the map (h, w, ...) of crops (P, N, ...) without the padding around the image."""
    side, gw, gh = (case.params[name] for name in ("side", "grid_w", "grid_h"))
    rest = crops.shape[2:]
    whole = crops.view(gh, gw, side, side, *rest).transpose(1, 2).reshape(gh * side, gw * side, *rest)
    cut = crop_map(*case.params["original_size_wh"], side, (gh, gw))
    return whole[cut.top : cut.top + cut.inner[0], cut.left : cut.left + cut.inner[1]]


def in_two_views(base: Tensor, crops: Tensor, newline: Tensor) -> tuple[Tensor, Tensor]:
    """Return (2, M, ...) base view (N, ...) and map (h, w, ...) with a newline behind each row, and (2, M) bool."""
    column = newline.expand(len(crops), 1, *crops.shape[2:])
    crops = torch.cat([crops, column], 1).flatten(0, 1)
    rows = torch.zeros(2, *crops.shape)
    rows[0, : len(base)], rows[1] = base, crops
    return rows, torch.arange(len(crops))[None] < torch.tensor([[len(base)], [len(crops)]])


@pytest.mark.parametrize("case", cases("vision", "globalcom2"))
def test_globalcom2_parity(case: Case) -> None:
    side, tiles = case.params["side"], (case.params["grid_h"], case.params["grid_w"])
    ratio, temperature = case.params["ratio"], float(case.params["temperature"])
    base, scores = case["in_base_score"], stitched(case, case["in_crop_score"])
    features = stitched(case, case["in_features"][1:])
    h, w = scores.shape
    cells, found = crop_cells((1, h, w + 1), (side, side))
    cells = cells.view(h, w + 1)[:, :-1]
    assert found == tiles

    ratios = crop_ratios(base.view(side, side), tiles, ratio, temperature)
    torch.testing.assert_close(ratios.double(), case["out_crop_scales"], rtol=1e-4, atol=1e-6)
    score = crop_scores(scores, cells, base.view(side, side))
    chosen = []
    for tile, share in enumerate(ratios.tolist()):
        mine = (cells == tile).flatten().nonzero()[:, 0]
        best = score.flatten()[mine].argsort(descending=True)[: int(len(mine) * share)]
        chosen.append(features.flatten(0, 1)[mine[best]])
    theirs = case["out_crop_tokens"]  # float16, with a newline in each row of the map, padding included
    theirs = theirs[(theirs != case["in_newline"].half()).any(-1)].float()
    assert_same_tokens(torch.cat(chosen), theirs, rtol=3e-3, atol=1e-3)

    x, valid = in_two_views(case["in_features"][0], features, case["in_newline"])
    logits, _ = in_two_views(base, scores, torch.zeros(1))
    view = TokenView(
        x,
        valid=valid,
        grids=[(1, side, side), (1, h, w + 1)],
        signals={"final_cls_logits": logits[:, None]},
        group=torch.zeros(2, dtype=torch.long),
    )
    room = round(ratio * h * w)
    count = torch.tensor([int(len(base) * ratio), room])
    params = {"temperature": temperature, "newlines": False}
    kept = make_reducer("globalcom2", params | {"fill": False}).assign(view, count)
    assert kept.anchors[0, : kept.kept[0]].tolist() == case["out_thumb_indices"].sort().values.tolist()
    if abs(room - ratio * h * w) < 1e-9:  # else the budget can't say their ratio
        out = kept.apply(x)[1, : kept.kept[1]]
        assert_same_tokens(out, theirs, rtol=3e-3, atol=1e-3)
    full = make_reducer("globalcom2", params).assign(view, count)
    assert full.kept.tolist() == count.tolist()
    assert set(kept.anchors[1, : kept.kept[1]].tolist()) <= set(full.anchors[1].tolist())


def pictured(h: int, w: int, seed: int = 0) -> TokenView:
    """Return a base view of 4 x 4 and a map of h x w with newlines, scored at random."""
    random = torch.Generator().manual_seed(seed)
    logits, valid = in_two_views(
        torch.randn(16, generator=random), torch.randn(h, w, generator=random), torch.zeros(1)
    )
    return TokenView(
        logits[..., None],
        valid=valid,
        grids=[(1, 4, 4), (1, h, w + 1)],
        signals={"final_cls_logits": logits[:, None]},
        group=torch.zeros(2, dtype=torch.long),
    )


@pytest.mark.parametrize(("h", "w"), [(8, 8), (4, 7), (6, 12)])
@pytest.mark.parametrize("newlines", [True, False])
def test_globalcom2_newlines_and_budgets(h: int, w: int, newlines: bool) -> None:
    view, m = pictured(h, w), h * (w + 1)
    for count in (1, h, 2 * h - 1, 2 * h, m - h, m - 1, m):
        assignment = make_reducer("globalcom2", {"newlines": newlines}).assign(view, torch.tensor([5, count]))
        assert assignment.kept.tolist() == [5, count]
        ends = int((assignment.anchors[1, :count] % (w + 1) == w).sum())
        assert ends == (h if newlines and count >= 2 * h else max(count - h * w, 0))


def test_crops_that_the_thumbnail_attends_to_keep_more() -> None:
    view = pictured(8, 8)
    view.signals["final_cls_logits"][0, 0, :16] = torch.tensor([0.0, 0, 9, 9, 0, 0, 9, 9] + [0.0] * 8)
    anchors = make_reducer("globalcom2", {"newlines": False}).assign(view, torch.tensor([4, 16])).anchors[1]
    cells = crop_cells((1, 8, 9), (4, 4))[0][anchors]
    shares = torch.bincount(cells, minlength=4).tolist()
    assert shares[1] == max(shares) and shares[1] > shares[0]
    assert crop_ratios(torch.zeros(4, 4), (2, 2), 0.3, 10.0).tolist() == pytest.approx([0.3] * 4)


def test_globalcom2_one_view_and_a_lone_newline() -> None:
    view = pictured(4, 4)
    view.grids = [(1, 4, 4), (1, 1, 1)]
    view.valid[1] = torch.arange(view.x.shape[1]) < 1
    assert make_reducer("globalcom2").assign(view, torch.tensor([3, 1])).kept.tolist() == [3, 1]
    view.group = torch.tensor([0, 1])
    best = view.signals["final_cls_logits"][0, 0, :16].topk(3).indices.sort().values.tolist()
    assert make_reducer("globalcom2").assign(view, torch.tensor([3, 1])).anchors[0].tolist() == best
