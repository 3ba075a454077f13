"""PiToMe against the authors' code."""

from math import floor

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.pitome import energy
from tests.reducers.golden_cases import Case, cases
from tests.reducers.merging import assert_same_tokens


@pytest.mark.parametrize("case", cases("vision", "pitome"))
def test_pitome_parity(case: Case) -> None:
    p, prefix = case.params, int(case.params["class_token"])
    x, metric = case["in_x"][:, prefix:], case["in_metric"][:, prefix:]
    size = case["in_size"][:, prefix:, 0] if "in_size" in case else None
    view = TokenView(x, size=size, prefix=prefix, signals={"block_keys": metric})
    crowd = energy(metric, view.valid, p["margin"], p["alpha"])
    torch.testing.assert_close(crowd, case["out_energy"], rtol=1e-4, atol=1e-5)

    n = metric.shape[1]
    away = floor(n - n * p["ratio"])
    params = {"margin": p["margin"], "alpha": p["alpha"], "protect": not p["use_bsm_pitome"]}
    assignment = make_reducer("pitome", params).assign(view, n - away)
    out, sizes = assignment.apply(x, view.size), assignment.sizes(view.size)
    for row in range(len(x)):
        order = assert_same_tokens(out[row], case["out_x"][row, prefix:])
        assert sizes[row].tolist() == case["out_size"][row, prefix:, 0][order].tolist()


@pytest.mark.parametrize("case", cases("vision", "pitome_text"))
def test_pitome_text_parity(case: Case) -> None:
    p, prefix = case.params, int(case.params["class_token"])
    x, metric = case["in_x"][:, prefix:], case["in_metric"][:, prefix:]
    size = case["in_size"][:, prefix:, 0] if "in_size" in case else None
    view = TokenView(x, size=size, prefix=prefix, signals={"block_keys": metric})
    n = metric.shape[1]
    left = n - floor(n - n * p["ratio"])
    assignment = make_reducer("pitome", {"margin": p["margin"], "text": True}).assign(view, left)
    out, sizes = assignment.apply(x, view.size), assignment.sizes(view.size)
    for row in range(len(x)):
        order = assert_same_tokens(out[row], case["out_x"][row, prefix:])
        assert sizes[row].tolist() == case["out_size"][row, prefix:, 0][order].tolist()
