"""ToMe against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.tome import parse_r
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "tome"))
def test_tome_parity(case: Case) -> None:
    prefix = int(case.params["class_token"]) + int(case.params["distill_token"])
    x = case["in_x"]
    size = case["in_size"][..., 0] if "in_size" in case else torch.ones(x.shape[:2])
    metric = case["in_metric"][:, prefix:]
    view = TokenView(x[:, prefix:], size=size[:, prefix:], prefix=prefix, signals={"block_keys": metric})
    n = metric.shape[1]
    assignment = make_reducer("tome").assign(view, n - min(case.params["r"], n // 2))
    out, sizes = assignment.apply(view.x, view.size), assignment.sizes(view.size)
    groups = assignment.dense(view.size) > 0
    for row in range(len(x)):
        source = case["out_source"][row] > 0
        # they emit even tokens, then odd ones: pair the rows by the tokens that went into them
        theirs = {tuple((s.nonzero()[:, 0] - prefix).tolist()): i for i, s in enumerate(source)}
        mine = [tuple(group.nonzero()[:, 0].tolist()) for group in groups[row]]
        assert len(mine) == len(theirs) - prefix
        order = [theirs[group] for group in mine]
        torch.testing.assert_close(out[row], case["out_x"][row][order], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sizes[row], case["out_size"][row, order, 0], rtol=0, atol=0)


@pytest.mark.parametrize("case", cases("vision", "tome_kth"))
def test_tome_stride_parity(case: Case) -> None:
    stride = case.params["k"]
    receivers = case["in_x"].shape[1] // stride
    # they drop the tokens behind the last receiver, which a reducer isn't asked to
    x, metric = (case[name][:, : receivers * stride] for name in ("in_x", "in_metric"))
    size = case["in_size"][:, : receivers * stride, 0] if "in_size" in case else None
    view = TokenView(x, size=size, signals={"block_keys": metric})
    assignment = make_reducer("tome", {"stride": stride}).assign(view, receivers)
    places = list(range(stride - 1, receivers * stride, stride))
    assert assignment.anchors.tolist() == [places] * len(x)
    torch.testing.assert_close(assignment.apply(x, view.size), case["out_x"], rtol=1e-5, atol=1e-5)
    assert torch.equal(assignment.sizes(view.size), case["out_size"][..., 0])


@pytest.mark.parametrize("case", cases("vision", "tome_schedule"))
def test_tome_schedule_parity(case: Case) -> None:
    for (blocks, r, inflect), theirs in zip(
        case["in_layers_r_inflect"].tolist(), case["out_r_per_layer"].tolist(), strict=True
    ):
        assert parse_r(int(blocks), int(r), inflect) == tuple(theirs[: int(blocks)])


def test_tome_repeats_matching_below_half() -> None:
    keys = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0))
    view = TokenView(torch.eye(40)[None], signals={"block_keys": keys})
    assignment = make_reducer("tome").assign(view, 6)
    assert assignment.kept.tolist() == [6]
    assert assignment.sizes(view.size).sum() == 40  # nothing is dropped
    # a mean of means, weighted by size, is the mean over all members
    torch.testing.assert_close(assignment.apply(view.x, view.size).sum(-1), torch.ones(1, 6))


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("budget", [1, 4, 12, 30])
def test_tome_with_a_stride_meets_any_budget(budget: int, prefix: int) -> None:
    keys = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(40)[None] < torch.tensor([[40], [6]])
    view = TokenView(keys, valid=valid, prefix=prefix, signals={"block_keys": keys})
    assignment = make_reducer("tome", {"stride": 5}).assign(view, budget)
    assert assignment.kept.tolist() == [budget, min(budget, 6)]
    assert assignment.sizes(view.size * valid).sum(1).tolist() == [40, 6]


def test_tome_presets_leave_the_published_counts() -> None:
    from autotc.policy import budget
    from autotc.reducers.tome import ToMe
    from tests.contracts.reducer import ANATOMIES

    for preset in ToMe.presets:
        stages = preset.stages(ANATOMIES[0])
        counts = [budget(576, stage.keep) for stage in stages]
        assert counts[-1] == 192
        assert counts == sorted(counts, reverse=True)
    assert len(ToMe.presets[0].stages(ANATOMIES[0])) == 22
