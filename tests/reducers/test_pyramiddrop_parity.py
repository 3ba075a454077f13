"""PyramidDrop against the authors' code; the attention row is recomputed here from the case's projections."""

import pytest
import torch
from torch import Tensor

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


def rotate(x: Tensor, base: float) -> Tensor:
    """Apply half-split RoPE to x (H, L, hd) at positions 0..L-1."""
    half = x.shape[-1] // 2
    turns = base ** (-torch.arange(half) * 2.0 / x.shape[-1])
    angles = torch.arange(x.shape[1])[:, None] * turns
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def last_row(case: Case) -> Tensor:
    """Return the attention row (H, L) of the last prompt token under the case's next layer."""
    hidden, heads = case["in_hidden"][0], case.params["heads"]
    q, k = (
        rotate((hidden @ case[name].T).view(len(hidden), heads, -1).transpose(0, 1), case.params["rope_base"])
        for name in ("in_Wq", "in_Wk")
    )
    last = len(hidden) - 1  # the prompt ends the sequence: prompt_len + n_vis_now - 1
    return torch.einsum("hd,hld->hl", q[:, last], k).div(q.shape[-1] ** 0.5).softmax(-1)


@pytest.mark.parametrize("case", cases("llm", "pyramiddrop"))
def test_pyramiddrop_parity(case: Case) -> None:
    start, n = case.params["v_start"], case.params["n_vis_now"]
    attention = last_row(case)[None, :, start : start + n]
    budget = int(case.params["n_vis_original"] * case.params["ratios"][case.params["stage"] + 1])
    view = TokenView(case["in_hidden"][:, start : start + n], signals={"next_attention": attention})
    assignment = make_reducer("pyramiddrop").assign(view, budget)
    kept = case["out_keep_sorted"]
    assert (assignment.anchors[0] + start).tolist() == kept[(kept >= start) & (kept < start + n)].tolist()
    assert len(kept) == len(case["out_position_ids"][0])
