"""VFlowOpt against the authors' code, and against plain loops where that has other counts."""

from math import floor

import pytest
import torch
from torch import Tensor

from autotc.assignment import merge
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.vflowopt import VFlowOpt, importance, recycled
from autotc.scoring import cells
from tests.contracts.reducer import ANATOMIES
from tests.reducers.golden_cases import Case, cases


def view_of(score: Tensor, source: Tensor | None = None) -> TokenView:
    """Tokens whose importance (N,) is what they receive from all others."""
    return TokenView(
        torch.zeros(1, len(score), 2), source=source, signals={"received_attention": score[None, None]}
    )


@pytest.mark.parametrize("case", cases("llm", "vflowopt_llm"))
def test_vflowopt_decoder_parity(case: Case) -> None:
    score, start = case["in_importance"], case.params["v_start"]
    left, state = torch.arange(len(score)), {}
    for stage, ratio in enumerate(case.params["ratios"], 1):
        # the importance is carried: what a later stage could see is the reverse
        view = view_of(score[left] if stage == 1 else -score[left], left[None])
        view.grids, view.state = [(1, 1, len(score))], state
        away = round(len(left) * (1 - ratio))
        assignment = make_reducer("vflowopt", {"recycle": False}).assign(view, len(left) - away)
        left = left[assignment.anchors[0]]
        theirs = case[f"out_keep_sorted_stage{stage}"] - start  # text before and behind the image, too
        assert torch.equal(left, theirs[(theirs >= 0) & (theirs < len(score))])


@pytest.mark.parametrize("case", cases("llm", "vflowopt_vit_merge"))
def test_vflowopt_recycling_parity(case: Case) -> None:
    knobs, score, x = case.params, case["in_importance"], case["in_features"]
    n, side, width, cell = len(score), knobs["base_grid"], knobs["local_w"], knobs["grid_cell"]
    views = [(1, side, side), (1, (n - side * side) // width, width)]
    numbers = [cells(torch.arange(h * w)[None], [(1, h, w)], cell) for _, h, w in views]
    cell_of = torch.cat((numbers[0], numbers[1] + side * side), 1)
    away = torch.tensor([round(n * (1 - knobs["keep_ratio"])) + int(n / cell**2)])
    valid = torch.ones(1, n).bool()
    target = recycled(score[None], cell_of, away, valid)[0]
    itself = target == torch.arange(n)
    assert torch.equal(itself.int(), case["out_keep_mask"])
    lowest = score.argsort()[: int(away)]
    weight = torch.ones(n).scatter(0, lowest, score[lowest])
    out = merge(target[None], weight[None], normalise="count").apply(x[None])[0]
    torch.testing.assert_close(out, case["out_features_out"], rtol=1e-4, atol=1e-5)


def reference(score: list[float], columns: int, cell: float, budget: int) -> dict[int, list[int]]:
    """Return the kept tokens with what goes into each, for the most tokens kept for themselves."""
    rising = sorted(range(len(score)), key=lambda i: (score[i], -i))
    for away in range(len(score) + 1):
        groups: dict[tuple[int, int], list[int]] = {}
        for i in rising[:away]:
            groups.setdefault((floor(i // columns / cell), floor(i % columns / cell)), []).append(i)
        if len(score) - away + len(groups) <= budget or away == len(score):
            made = {max(g, key=lambda i: score[i]): g for g in groups.values()}
            made |= {i: [i] for i in rising[away:]}
            return {i: made[i] for i in sorted(made, key=lambda i: -score[i])[:budget]}
    raise AssertionError


@pytest.mark.parametrize("cell", [3.0, 4.7])
@pytest.mark.parametrize("budget", [70, 40, 9, 6, 3])
def test_vflowopt_recycles_within_the_budget(budget: int, cell: float) -> None:
    random = torch.Generator().manual_seed(budget)
    score, x = torch.rand(77, generator=random), torch.randn(1, 77, 4, generator=random)
    view = view_of(score)
    view.grids = [(1, 7, 11)]
    assignment = make_reducer("vflowopt", {"cell": cell}).assign(view, budget)
    groups = reference(score.tolist(), 11, cell, budget)
    assert assignment.anchors[0].tolist() == sorted(groups)
    means = [(x[0, g] * score[g, None]).sum(0) / score[g].sum() for _, g in sorted(groups.items())]
    torch.testing.assert_close(assignment.apply(x)[0], torch.stack(means), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 1.2, 50.0])
def test_vflowopt_asks_the_most_attended_tokens(threshold: float) -> None:
    random = torch.Generator().manual_seed(1)
    attention = (torch.randn(2, 20, 20, generator=random) * 2).softmax(-1)
    valid = torch.arange(20)[None] < torch.tensor([[20], [14]])
    found = importance(attention, valid, threshold)
    for row, n in enumerate((20, 14)):
        square = attention[row, :n, :n]
        received = square.mean(0)
        asked = [i for i in range(n) if received[i] > threshold * received.mean()] or [int(received.argmax())]
        assert len(asked) in {0.0: [n], 1.2: range(2, n), 50.0: [1]}[threshold]
        torch.testing.assert_close(found[row, :n], square[asked].mean(0))


def test_vflowopt_presets_meet_their_average() -> None:
    for preset, mean in zip(VFlowOpt.presets, (0.25, 0.5, 0.1), strict=True):
        keeps = [stage.keep for stage in preset.stages(ANATOMIES[0])]
        layers = (9, 9, 10)  # 28 of the authors' model
        assert sum(k * n for k, n in zip(keeps, layers, strict=True)) / 28 == pytest.approx(mean, abs=0.002)
