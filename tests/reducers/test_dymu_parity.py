"""DyMU's thresholded matching against the authors' code."""

import pytest

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases
from tests.reducers.merging import assert_same_tokens


@pytest.mark.parametrize("case", cases("vision", "dymu"))
def test_dymu_parity(case: Case) -> None:
    prefix = int(case.params["class_token"])
    x, metric = case["in_x"][:, prefix:], case["in_metric"][:, prefix:]
    view = TokenView(x, prefix=prefix, signals={"block_keys": metric})
    n, most = metric.shape[1], case.params["max_r_per_instance"]
    threshold = case.params["threshold"]
    kept = make_reducer("dymu", {"threshold": threshold}).assign(view, n).kept.tolist()
    if most is not None and n - most > kept[0]:
        # theirs caps the merges at the best ones, as a budget does that the threshold doesn't undercut
        threshold, kept = 1.0, [n - most]
    assignment = make_reducer("dymu", {"threshold": threshold}).assign(view, kept[0])
    out, sizes = assignment.apply(x, view.size), assignment.sizes(view.size)
    groups = assignment.dense(view.size) > 0
    for row in range(len(x)):
        order = assert_same_tokens(out[row], case["out_x"][row, prefix:])
        assert sizes[row].tolist() == case["out_size"][row, prefix:, 0][order].tolist()
        theirs = case["out_position_map"][row, prefix:, prefix:][order] > 0
        assert groups[row].tolist() == theirs.tolist()
