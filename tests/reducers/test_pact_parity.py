"""PACT's importance and clustering against the authors' code, through the reducer."""

import pytest
import torch
from torch import Tensor

from autotc import kernels
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.pact import importance
from tests.reducers.golden_cases import Case, cases


def apart(x: Tensor, heads: int) -> Tensor:
    """Return x (1, S, heads * hd) as (1, heads, S, hd)."""
    return x.view(1, x.shape[1], heads, -1).transpose(1, 2)


@pytest.mark.parametrize("case", cases("llm", "pact_euti"))
def test_pact_importance_parity(case: Case) -> None:
    knobs, hidden = case.params, case["in_hidden"]
    q, k = apart(case["in_q"], knobs["heads"]), apart(case["in_k"], knobs["kv_heads"])
    image = slice(knobs["v_start"], knobs["v_start"] + knobs["n_vis"])
    everything = torch.ones(1, q.shape[2], dtype=torch.bool)
    row = kernels.mean_query_attention(q, k, everything, knobs["head_dim"] ** -0.5)[..., image]
    torch.testing.assert_close(importance(row, hidden)[0], case["out_scores"], atol=1e-4, rtol=1e-4)
    # keys at right angles: nothing clusters, nothing comes back
    keys = torch.eye(knobs["n_vis"])[None, None]
    view = TokenView(hidden, signals={"prefix_attention": row, "next_keys": keys})
    assignment = make_reducer("pact", {"keep": knobs["keep_frac"], "recover": 0.0}).assign(
        view, knobs["n_vis"]
    )
    assert assignment.anchors[0].tolist() == case["out_keep_mask"].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("case", cases("llm", "pact_dbdpc"))
def test_pact_clusters_parity(case: Case) -> None:
    knobs = case.params
    keys, hidden = case["in_keys"], case["in_hidden"]
    if knobs["n_pruned"]:
        keys = torch.cat((keys, case["in_pruned_keys"]))
        hidden = torch.cat((hidden, case["in_pruned_hidden"]))
    n, kept = len(keys), knobs["n_kept"]
    row = (torch.arange(n) < kept).float()[None, None]  # the authors' order: kept tokens first
    reducer = make_reducer(
        "pact", {"keep": (kept + 0.5) / n if kept < n else 1.0, "cutoff": knobs["cutoff"],
                 "recover": knobs["coef_pruned"]}
    )  # fmt: skip
    view = TokenView(hidden[None], signals={"prefix_attention": row, "next_keys": keys[None, None]})
    assignment = reducer.assign(view, n)
    centres = case["out_mask"].nonzero()[:, 0]
    assert assignment.anchors[0].tolist() == centres.tolist()
    labels = torch.full((n,), -1)
    labels[assignment.rows.columns] = assignment.anchors[0][assignment.rows.row_of]
    assert labels.tolist() == case["out_labels"].tolist()
    torch.testing.assert_close(assignment.apply(hidden[None])[0], case["out_merged"], atol=1e-4, rtol=0)
    sizes = assignment.sizes(torch.ones(1, n))[0]
    torch.testing.assert_close(sizes, case["out_weights"][centres], atol=0, rtol=0)


@pytest.mark.parametrize("budget", [1, 5, 20, 40])
def test_a_small_budget_widens_the_clusters(budget: int) -> None:
    random = torch.Generator().manual_seed(budget)
    x = torch.randn(1, 80, 8, generator=random)
    row = torch.rand(1, 2, 80, generator=random)
    view = TokenView(
        x, signals={"prefix_attention": row, "next_keys": torch.randn(1, 1, 80, 4, generator=random)}
    )
    free = int(make_reducer("pact", {"cutoff": 0.05}).assign(view, 80).kept)
    held = int(make_reducer("pact", {"cutoff": 0.05}).assign(view, budget).kept)
    assert min(free, budget) / 2 <= held <= budget
