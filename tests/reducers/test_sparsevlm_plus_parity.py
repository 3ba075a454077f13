"""SparseVLM+ against the authors' code: the choice of heads, and RoPE's trend against rotated ones."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.sparsevlm_plus import looking_heads, rope_trend
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "sparsevlm_plus_heads"))
def test_sparsevlm_plus_parity(case: Case) -> None:
    attention = case["in_rater_attn"]
    best = looking_heads(attention.sum(1)[None], case.params["keep_heads"])
    assert best[0].tolist() == case["out_head_idx_desc"].tolist()

    # the reducer reads exactly these heads
    n, words = attention.shape[2], attention.shape[1]
    signals = {
        "text_attention": attention[None],
        "input_embeds": torch.ones(1, n, 1),
        "text_embeds": torch.ones(1, words, 1),
        "keys": torch.ones(1, 1, n, 8),
    }
    reducer = make_reducer("sparsevlm_plus", {"keep_heads": case.params["keep_heads"], "debias": False})
    assignment = reducer.assign(TokenView(torch.zeros(1, n, 1), signals=signals), 5)
    expected = attention[case["out_head_idx_desc"]].mean((0, 1)).topk(5).indices.sort().values
    assert assignment.anchors[0].tolist() == expected.tolist()


def test_rope_trend_is_what_rotating_ones_gives() -> None:
    width, base = 8, 100.0
    angles = torch.arange(12.0)[:, None] * base ** (-torch.arange(0, width, 2) / width)
    cos, sin = angles.cos(), angles.sin()
    ones = torch.cat((cos - sin, cos + sin), -1)  # half-split rotation of a vector of ones
    expected = ones[9:] @ ones[:9].T / width**0.5
    trend = rope_trend(torch.arange(9, 12)[None], torch.arange(9)[None], width, base)
    torch.testing.assert_close(trend[0], expected, atol=1e-5, rtol=0)
