"""ATC against the authors' code."""

import pytest
import torch

from autotc.policy import budget
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.atc import ATC, clusters
from tests.contracts.reducer import ANATOMIES
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "atc"))
def test_atc_parity(case: Case) -> None:
    prefix = int(case.params["class_token"])
    x = case["in_x"][:, prefix:]
    size = case["in_size"][:, prefix:, 0] if "in_size" in case else None
    view = TokenView(x, size=size, prefix=prefix, signals={"block_keys": case["in_metric"][:, prefix:]})
    reducer = make_reducer("atc", {"linkage": case.params["linkage"]})
    assignment = reducer.assign(view, case.params["num_clusters"])
    out, sizes = assignment.apply(x, view.size), assignment.sizes(view.size)
    groups = assignment.dense(view.size) > 0
    for row, theirs in enumerate(case["out_membership"][:, prefix:, prefix:] > 0):
        # a partition has no order: clusters are paired by their first member
        order = theirs.int().argmax(1).argsort()
        assert torch.equal(groups[row], theirs[order])
        assert assignment.anchors[row].tolist() == theirs[order].int().argmax(1).tolist()
        torch.testing.assert_close(out[row], case["out_x"][row, prefix:][order], rtol=1e-4, atol=1e-5)
        assert sizes[row].tolist() == case["out_size"][row, prefix:, 0][order].tolist()


def test_clusters_of_a_line() -> None:
    place = torch.tensor([0.0, 1.0, 2.1, 3.3, 10.0])
    distance = (place[:, None] - place).abs()
    assert clusters(distance, 5).tolist() == [0, 1, 2, 3, 4]
    assert clusters(distance, 2, "single").tolist() == [0, 0, 0, 0, 4]
    assert clusters(distance, 3, "complete").tolist() == [0, 0, 2, 2, 4]
    distance[1] = distance[:, 1] = torch.nan
    assert clusters(distance, 2).tolist() == [0, 1, 0, 0, 0]


def test_atc_preset_gives_the_published_counts() -> None:
    stages = ATC.presets[0].stages(ANATOMIES[0])
    assert [budget(576, stage.keep) for stage in stages] == [399, 276, 192]
