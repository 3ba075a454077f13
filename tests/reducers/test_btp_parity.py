"""Balanced Token Pruning's three selections against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.btp import attended, evenly, farthest_from
from autotc.scoring import cosine
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "btp_attn"))
def test_btp_attention_parity(case: Case) -> None:
    knobs = case.params
    seen = case["in_image_attn"].mean(0)
    chosen = attended(seen, knobs["k"], knobs["select_num"], knobs["extra_num"])
    assert sorted(chosen) == sorted(case["out_selected"].tolist())


@pytest.mark.parametrize("case", cases("llm", "btp_div"))
def test_btp_diversity_parity(case: Case) -> None:
    apart = (1 - cosine(case["in_x"][None]))[0].numpy()
    chosen = farthest_from(case.params["preselected"] or [], apart, case.params["k"])
    assert chosen == case["out_selected_order"].tolist()


@pytest.mark.parametrize("case", cases("llm", "btp_spatial_init"))
def test_btp_grid_parity(case: Case) -> None:
    h, w = case.params["H"], case.params["W"]
    assert evenly(torch.arange(h * w), w, case.params["k"]) == case["out_selected_order"].tolist()


def test_btp_unites_the_three_and_fills_up() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 8, generator=random)
    seen = torch.rand(1, 2, 64, generator=random)
    view = TokenView(x, signals={"last_attention": seen})
    knobs = {"attention": 0.3, "spread": 3.7, "diversity": 0.3, "grid": 0.5}
    kept = set(make_reducer("btp", knobs).assign(view, 32).anchors[0].tolist())
    wanted = int(0.3 * 32)
    by_attention = attended(seen[0].mean(0), 32, wanted, int(3.7 * wanted))
    apart = (1 - cosine(x))[0].numpy()
    assert len(kept) == 32
    assert {*by_attention, *farthest_from([], apart, wanted)} <= kept
    assert len({*evenly(torch.arange(64), 8, 16)} & kept) >= 32 - 2 * wanted
