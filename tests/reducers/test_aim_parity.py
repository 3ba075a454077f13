"""AIM's merging against the authors' code (their order of tokens is not kept)."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from tests.reducers.golden_cases import Case, cases


def sorted_rows(rows: torch.Tensor) -> torch.Tensor:
    return rows[rows[:, 0].argsort()]


@pytest.mark.parametrize("case", cases("llm", "aim_merge"))
def test_aim_parity(case: Case) -> None:
    x = case["in_x"]
    assignment = make_reducer("aim").assign(TokenView(x), x.shape[1] - case.params["r"])
    for ours, theirs in zip(assignment.apply(x), case["out_y"], strict=True):
        torch.testing.assert_close(sorted_rows(ours), sorted_rows(theirs), atol=1e-4, rtol=0)


def test_a_second_round_averages_averages() -> None:
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]])
    assignment = make_reducer("aim").assign(TokenView(x), 1)
    assert assignment.anchors.tolist() == [[3]]
    torch.testing.assert_close(assignment.apply(x)[0, 0], x[0].mean(0))
    assert assignment.sizes(torch.ones(1, 4)).tolist() == [[4.0]]
