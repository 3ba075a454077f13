"""Turbo against the authors' code."""

import pytest
import torch

from autotc.policy import budget
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.turbo import Turbo
from tests.contracts.reducer import ANATOMIES
from tests.reducers.golden_cases import Case, cases
from tests.reducers.merging import assert_same_tokens


@pytest.mark.parametrize("case", cases("vision", "turbo"))
def test_turbo_parity(case: Case) -> None:
    prefix = int(case.params["class_token"])
    reducer = make_reducer("turbo", {"alpha": float(case.params["alpha"])})
    for row in range(len(case["in_x"])):
        x, metric = (case[name][row : row + 1, prefix:] for name in ("in_x", "in_metric"))
        salient = case["in_cls_attn"][row : row + 1, prefix:]
        size = case["in_size"][row : row + 1, prefix:, 0] if "in_size" in case else torch.ones(x.shape[:2])
        left = case.params["r"]
        while left:
            n = x.shape[1]
            step = min(left, (n + prefix - 1) // 2)
            signals = {"block_keys": metric, "block_cls_attention": salient[:, None]}
            view = TokenView(x, size=size, prefix=prefix, signals=signals)
            assignment = reducer.assign(view, n - step)
            x, metric = assignment.apply(x, size), assignment.apply(metric, size)
            salient, size = assignment.sizes(salient), assignment.sizes(size)
            # a further round of theirs goes on with the unsent even tokens, then the odd ones
            order = torch.argsort((assignment.anchors[0] + prefix) % 2, stable=True)
            x, metric, salient, size = (item[:, order] for item in (x, metric, salient, size))
            left -= step
        order = assert_same_tokens(x[0], case["out_x"][row, prefix:])
        torch.testing.assert_close(metric[0], case["out_metric"][row, prefix:][order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            salient[0], case["out_cls_attn"][row, prefix:][order], rtol=1e-4, atol=1e-6
        )
        assert size[0].tolist() == case["out_size"][row, prefix:, 0][order].tolist()


# without a CLS row a round sends all even tokens but one; with one, the odd tokens are those that could be sent
@pytest.mark.parametrize(("prefix", "place", "budget"), [(0, 4, 8), (1, 5, 22)])
def test_turbo_spares_what_cls_attends_to(prefix: int, place: int, budget: int) -> None:
    keys = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0))
    keys[:, place] = keys[:, place + 1]  # as redundant as can be
    salient = torch.full((1, 2, 40), 0.01)
    salient[:, :, place] = 0.2
    signals = {"block_keys": keys, "block_cls_attention": salient}
    view = TokenView(torch.eye(40)[None], prefix=prefix, signals=signals)
    spared, plain = (make_reducer("turbo", {"alpha": alpha}).assign(view, budget) for alpha in (5.0, 0.0))
    assert spared.kept.tolist() == [budget] and spared.sizes(view.size).sum() == 40
    assert place in spared.anchors[0].tolist() and place not in plain.anchors[0].tolist()


def test_turbo_presets_leave_the_published_counts() -> None:
    every, last = (preset.stages(ANATOMIES[0]) for preset in Turbo.presets)
    counts = [budget(576, stage.keep) for stage in every]
    assert counts == [*range(559, 203, -17), 192] and len(every) == 22
    assert [(stage.layer, budget(576, stage.keep)) for stage in last] == [((20, 24), 541), ((22, 24), 192)]
