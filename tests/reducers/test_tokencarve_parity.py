"""TokenCarve against the authors' code."""

import pytest
import torch

from autotc.assignment import Assignment, merge
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.tokencarve import carve, energy, fused
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "tokencarve"))
def test_tokencarve_parity(case: Case) -> None:
    start, n, target = (case.params[key] for key in ("v_start", "n_vis", "target"))
    attention = case["in_attn_last_row"][None, :, start : start + n]
    x = case["in_layer_out"][:, start : start + n]
    information = energy(x[0])
    torch.testing.assert_close(information, case["out_svd_score"], atol=1e-4, rtol=1e-5)
    scores = fused(attention[0].mean(0), information, case.params["av_weight"])
    first = case["out_stage1_desc"] - start
    best = scores.sort(descending=True).values[: len(first)]
    assert scores[first].tolist() == best.tolist()
    kept = case["out_keep_sorted"]
    visual = (kept >= start) & (kept < start + n)

    def check(assignment: Assignment) -> None:
        assert (assignment.anchors[0] + start).tolist() == kept[visual].tolist()
        expected = case["out_new_hidden"][0][visual]
        torch.testing.assert_close(assignment.apply(x)[0], expected, atol=1e-4, rtol=0)

    # Fused ranks tie often, and the authors' order of equal ranks is that of an unstable sort: the merging is
    # held against their order, the whole reducer where nothing ties.
    theirs = torch.cat((first, torch.tensor([i for i in range(n) if i not in first])))
    check(merge(carve(x[0], theirs, target)[None], normalise="count"))
    if len(best.unique()) == len(best):
        reducer = make_reducer("tokencarve", {"attention": case.params["av_weight"]})
        check(reducer.assign(TokenView(x, signals={"last_attention": attention}), target))


def test_odd_budgets_are_met_and_the_better_half_stays() -> None:
    x = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0))
    signals = {"last_attention": torch.arange(20.0, 0, -1).view(1, 1, 20)}
    for wanted in range(1, 20):
        assignment = make_reducer("tokencarve", {"attention": 1.0}).assign(
            TokenView(x, signals=signals), wanted
        )
        assert assignment.kept.tolist() == [wanted]
        better = min(int(wanted / 2 * 3), 20) // 2
        assert set(range(better)) <= set(assignment.anchors[0].tolist())
