"""TransPrune's transition and one of its cuts against the authors' code; its memory over layers."""

import pytest
import torch
from torch import Tensor

from autotc import kernels
from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


def rotate(x: Tensor, base: float) -> Tensor:
    """Apply half-split RoPE to x (H, L, hd) at positions 0..L-1."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * base ** (-torch.arange(half) * 2.0 / x.shape[-1])
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def text_rows(case: Case) -> Tensor:
    """Return the attention rows (H, T, N) of the text under the case's next layer, causal, over all keys."""
    hidden, heads = case["in_hidden"][0], case.params["heads"]
    q, k = (
        rotate((hidden @ case[name].T).view(len(hidden), heads, -1).transpose(0, 1), case.params["rope_base"])
        for name in ("in_Wq", "in_Wk")
    )
    later = torch.ones(len(hidden), len(hidden), dtype=torch.bool).triu(1)
    logits = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
    start, n = case.params["v_start"], case.params["n_vis_now"]
    return logits.softmax(-1)[:, start + n :, start : start + n]


@pytest.mark.parametrize("case", cases("llm", "transprune"))
def test_transprune_parity(case: Case) -> None:
    start, n = case.params["v_start"], case.params["n_vis_now"]
    rows, maps = text_rows(case), case["in_ttv"]
    assert rows.shape[1] == case.params["n_text"]
    reducer, state = make_reducer("transprune"), {}
    budget = int(case.params["n_vis_original"] * case.params["ratios"][case.params["stage"] + 1])
    for i, moved in enumerate(maps):
        view = TokenView(
            case["in_hidden"][:, start : start + n],
            grids=[(1, 1, n)],
            signals={"transition": moved[None, start : start + n], "next_text_attention": rows[None]},
            state=state,
        )
        if i + 1 < len(maps):
            reducer.observe(view)
    assignment = reducer.assign(view, budget)
    kept = case["out_keep_sorted"]
    inside = (kept >= start) & (kept < start + n)
    assert (assignment.anchors[0] + start).tolist() == kept[inside].tolist()
    remembered = state["transition"].gather(1, assignment.anchors)[0]
    torch.testing.assert_close(remembered, case["out_ttv_after"].sum(0)[inside], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", cases("llm", "transprune_ttv"))
def test_transprune_transition_parity(case: Case) -> None:
    before, after = case["in_before"], case["in_after"]
    weight = kernels.transition(before, after, torch.ones(before.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(weight, case["out_weight"], atol=1e-4, rtol=0)


def test_memory_follows_tokens_that_moved_up() -> None:
    reducer, state = make_reducer("transprune"), {}

    def view(source: list[int], moved: list[float]) -> TokenView:
        signals = {
            "transition": torch.tensor([moved]),
            "next_text_attention": torch.full((1, 2, 3, len(source)), 0.1),
        }
        return TokenView(
            torch.zeros(1, len(source), 1),
            grids=[(1, 1, 5)],
            source=torch.tensor([source]),
            signals=signals,
            state=state,
        )

    reducer.observe(view([0, 1, 2, 3, 4], [0.0, 9.0, 0.0, 0.0, 5.0]))
    # token 1 is gone: what it moved must not be read for token 2, which stands in its place now
    assert reducer.assign(view([0, 2, 3, 4], [1.0, 0.0, 2.0, 0.0]), 2).anchors.tolist() == [[2, 3]]
