"""FlowCut against the authors' code: a block's score, the number that leaves, and what is carried along."""

import math

import pytest
import torch
from torch import Tensor

from autotc.policy import budget
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.flowcut import FlowCut, leaving
from tests.contracts.reducer import ANATOMIES
from tests.reducers.golden_cases import Case, cases


def entropy(attention: Tensor) -> float:
    """Return the entropy of attention (N,) as a share of the largest possible."""
    share = (attention / attention.sum()).double()
    return float(-(share * share.log()).sum() / math.log(len(share)))


@pytest.mark.parametrize("case", cases("vision", "flowcut"))
def test_flowcut_parity(case: Case) -> None:
    attention = case["in_cls_attn"]
    signals = {
        "block_cls_attention": attention[:, None],
        "block_value_attention": case["in_semantic_attn"][:, None],
        "block_values": case["in_value_head_mean"][:, None],
    }
    b, n = attention.shape
    view = TokenView(torch.zeros(b, n, 2), signals=signals, prefix=1)
    score = FlowCut().score(view)
    torch.testing.assert_close(score, case["out_score"], rtol=1e-5, atol=1e-7)
    kept = FlowCut().assign(view, n // 3)
    assert kept.anchors.tolist() == [r.argsort(descending=True)[: n // 3].sort()[0].tolist() for r in score]
    # the largest of the batch counts
    target, blocks = case.params["target"], case.params["remaining_layers"]
    gone = max(leaving(n, target, blocks, entropy(row)) for row in attention)
    assert gone == int(case["out_prune_num"])


def test_flowcut_never_leaves_less_than_the_target() -> None:
    assert leaving(200, 192, 1, 0.0) == 8 and leaving(200, 192, 0, 0.9) == 8
    assert leaving(200, 192, 2, 0.1) == round(8 / math.sqrt(2) * 0.99)
    assert leaving(100, 192, 4, 0.2) == leaving(100, 192, 0, 0.2) == 0


@pytest.mark.parametrize("has_cls", [True, False])
def test_flowcut_carries_its_score_through_cuts(has_cls: bool) -> None:
    random = torch.Generator().manual_seed(0)
    counts, past = (30, 21), 0.5
    state: dict = {}
    running = [dict.fromkeys(range(n), 0.0) for n in counts]
    left = [list(range(n)) for n in counts]
    reducer = make_reducer("flowcut")
    for block, cut in enumerate((None, None, (12, 15), None, (5, 4))):
        width = max(map(len, left))
        attention, alike = torch.rand(2, 2, 3, width, generator=random)
        values = torch.randn(2, 3, width, 4, generator=random)
        signals = {
            "block_cls_attention" if has_cls else "block_received_attention": attention,
            "block_values": values,
        } | ({"block_value_attention": alike} if has_cls else {})
        view = TokenView(
            torch.zeros(2, width, 2),
            valid=torch.tensor([[i < len(row) for i in range(width)] for row in left]),
            source=torch.tensor([row + [0] * (width - len(row)) for row in left]),
            grids=[(1, 1, n) for n in counts],
            signals=signals,
            state=state,
        )
        for row, tokens in enumerate(left):
            m = len(tokens)
            a, s = attention[row].mean(0)[:m], alike[row].mean(0)[:m]
            length = values[row].mean(0)[:m].abs().sum(1)
            now = (a / a.sum() + (s / s.sum() if has_cls else 0)) * length
            for i, token in enumerate(tokens):
                before = running[row][token] if block else float(now[i])
                running[row][token] = past * before + (1 - past) * float(now[i])
        if cut is None:
            reducer.observe(view)
            continue
        kept = reducer.assign(view, torch.tensor(cut))
        for row, k in enumerate(cut):
            best = sorted(left[row], key=lambda t, r=row: -running[r][t])[:k]
            assert view.source[row, kept.anchors[row, :k]].tolist() == sorted(best)
            left[row] = sorted(best)


@pytest.mark.parametrize(("preset", "target"), list(zip(FlowCut.presets, (192, 128, 64), strict=True)))
def test_flowcut_presets_end_at_the_target(preset, target: int) -> None:
    stages = preset.stages(ANATOMIES[0])
    assert [stage.layer for stage in stages] == [(i, 24) for i in range(2, 23, 2)]
    counts = [576, *(budget(576, stage.keep) for stage in stages)]
    assert counts[-1] == target
    for before, after, blocks in zip(counts, counts[1:-1], range(20, 0, -2), strict=False):
        assert before - after == round((before - target) / math.sqrt(blocks) * (1 - 0.9**2))
