"""GSOP's search and its count of operations against the authors' code."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from autotc.search.strategies.gsop import ATTENDS, MLP, SEEN, Operation, Search, flops
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "gsop_search"))
def test_gsop_search_parity(case: Case) -> None:
    p, costs = case.params, case["in_cost"].double()
    key, rest = p["prune_groups"]
    search = Search(
        p["num_layer"], key, rest, tuple(p["prune_ops"]), tuple(p["remove_key_layer"]), p["ll_half"]
    )

    def accuracy(pruned: Collection[Operation]) -> float:
        return p["baseline"] - float(sum(costs[operation] for operation in sorted(pruned)))

    start = search.start(accuracy, p["baseline"])
    expected = case["out_lossless_start"].tolist()
    assert [start.get((i // 3, i % 3), -1) for i in range(len(expected))] == expected
    record = search.greedy(
        accuracy, p["baseline"], p["acc_threshold_ratio"] * p["baseline"], p["greedy_steps"], faithful=True
    )
    rows = [[step, *operation] for step, added in enumerate(record) for operation in added]
    assert rows == case["out_trajectory"].tolist()


@pytest.mark.parametrize("case", cases("llm", "gsop_flops"))
def test_gsop_flops_parity(case: Case) -> None:
    p, pruned = case.params, case["in_pruned"].numpy().astype(bool)
    sizes = p["token_nums"], p["feat_dim"], p["mlp_dim"]
    assert flops(pruned, *sizes) == pytest.approx(float(case["out_flops"]), rel=1e-9)
    assert flops(pruned & False, *sizes) == pytest.approx(float(case["out_flops_dense"]), rel=1e-9)


def test_without_the_slip_an_operation_too_dear_is_taken_back_and_recorded_once_it_is_allowed() -> None:
    """The last operation costs a share and a half of what may be lost: it waits for the second share."""
    dear: Operation = (3, 2, ATTENDS)

    def accuracy(pruned: Collection[Operation]) -> float:
        return 1 - sum(0.15 if operation == dear else 0.001 for operation in pruned)

    search = Search(4, first_layer=(4, 4, 4))
    for faithful in (False, True):
        record = search.greedy(accuracy, 1.0, 0.4, 4, faithful=faithful)
        added = [operation for step in record for operation in step]
        assert len(added) == len(set(added))
        assert (dear in added) is not faithful  # the authors' record lacks it
    assert {m for _, _, m in added} == {SEEN, ATTENDS, MLP} and all(group == 2 for _, group, _ in added)


def test_what_follows_from_an_operation() -> None:
    search = Search(3)
    assert search.closed([(1, 1, MLP)]) == {(1, 1, MLP), (1, 2, MLP)}
    assert search.closed([(2, 2, SEEN)]) == {(2, 2, SEEN), (2, 2, ATTENDS), (2, 2, MLP)}
    assert search.closed([(1, 2, SEEN)]) == {(1, 2, SEEN)}  # seen again by the next layer
