"""SparseVLM 1.0's rank rule against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.sparsevlm_v1 import rank_count
from autotc.scoring import mean_rows, top_mask
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "sparsevlm_v1_rank"))
def test_sparsevlm_v1_parity(case: Case) -> None:
    rows = case["in_rater_attn"].mean(0)
    n = rows.shape[1]
    scores = mean_rows(rows[None], torch.ones(1, len(rows), dtype=torch.bool))
    torch.testing.assert_close(scores, case["out_score"], atol=1e-4, rtol=0)
    count = rank_count(rows, case.params["scale"], case.params["bias"])
    expected = case["out_kept_mask_vis"][0].nonzero()[:, 0].tolist()
    assert top_mask(scores, count)[0].nonzero()[:, 0].tolist() == expected

    # the reducer, with room for all: every text token is a rater
    embeds = torch.ones(1, len(rows), 1)
    signals = {
        "text_attention": case["in_rater_attn"][None],
        "input_embeds": torch.ones(1, n, 1),
        "text_embeds": embeds,
    }
    knobs = {"scale": case.params["scale"], "bias": case.params["bias"], "recycle": 0.0}
    view = TokenView(torch.randn(1, n, 4), signals=signals)
    assert make_reducer("sparsevlm_v1", knobs).assign(view, n).anchors[0].tolist() == expected
    capped = make_reducer("sparsevlm_v1", knobs).assign(view, 3)
    assert capped.kept.tolist() == [min(3, len(expected))]
