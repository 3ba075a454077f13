"""SparseVLM 1.5 against the authors' code: raters, clustering, and one whole stage."""

import pytest
import torch

from autotc.assignment import Assignment
from autotc.reducer import TokenView, make_reducer
from autotc.scoring import mean_rows, raters, recycle, recycled, recycling_split, top_mask
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "sparsevlm_raters"))
def test_sparsevlm_raters_parity(case: Case) -> None:
    start, n = case.params["v_start"], case.params["n_vis"]
    embeds = case["in_embeds"]
    chosen, share = raters(embeds[:, start : start + n], embeds[:, start + n :])
    torch.testing.assert_close(share, case["out_m_v_t"], atol=1e-4, rtol=0)
    assert chosen[0].nonzero()[:, 0].tolist() == case["out_rater_idx"].tolist()


def sorted_rows(rows: torch.Tensor) -> torch.Tensor:
    """Sort rows so that two sets of them can be compared."""
    return rows[rows[:, 0].argsort()]


@pytest.mark.parametrize("case", cases("llm", "sparsevlm_cluster_merge"))
def test_sparsevlm_clusters_parity(case: Case) -> None:
    x, count = case["in_x"], case.params["cluster_num"]
    nothing = torch.zeros(x.shape[:2], dtype=torch.bool)
    # scores that recycle everything in the order of x, which is the order of the noise
    scores = -torch.arange(x.shape[1], dtype=torch.float)[None]
    noise = 1e-6 * case["in_density_noise"]
    assignment = recycle(x, nothing, scores, x.shape[1], count, ~nothing, noise)
    assert int(assignment.kept) == count
    merged = sorted_rows(assignment.apply(x)[0])
    torch.testing.assert_close(merged, sorted_rows(case["out_merged"][0]), atol=1e-4, rtol=0)


def stage(case: Case) -> tuple[TokenView, torch.Tensor]:
    """Return the case's view, with embeddings that make its raters the raters, and the raters as a mask."""
    start, n, words = (case.params[key] for key in ("v_start", "n_vis", "n_text"))
    x = case["in_layer_out"][:, start : start + n]
    chosen = torch.zeros(1, words, dtype=torch.bool)
    chosen[0, case.params["raters"]] = True
    attention = torch.full((1, case.params["heads"], words, n), 7.0)  # what is not a rater's must not matter
    attention[:, :, case.params["raters"]] = case["in_rater_attn"]
    embeds = torch.where(chosen, 1.0, -1.0)[..., None]
    visual = torch.ones(1, n, 1)
    signals = {"text_attention": attention, "input_embeds": visual, "text_embeds": embeds}
    return TokenView(x, signals=signals, text_valid=torch.ones(1, words, dtype=torch.bool)), chosen


def check(case: Case, assignment: Assignment, x: torch.Tensor, exact: bool) -> None:
    start, after = case.params["v_start"], int(case["out_n_vis_after"])
    keep = case["out_kept_mask_vis"][0].bool()
    kept, expected = int(keep.sum()), case["out_new_hidden"][0, start : start + after]
    assert int(assignment.kept) == after
    own = keep[assignment.anchors[0]]  # kept tokens stand at themselves, clusters at a dropped token
    out = assignment.apply(x)[0]
    assert assignment.anchors[0][own].tolist() == keep.nonzero()[:, 0].tolist()
    torch.testing.assert_close(out[own], expected[:kept], atol=1e-4, rtol=0)
    if exact:
        clusters = sorted_rows(out[~own])
        torch.testing.assert_close(clusters, sorted_rows(expected[kept:]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", cases("llm", "sparsevlm_stage"))
def test_sparsevlm_stage_parity(case: Case) -> None:
    view, chosen = stage(case)
    n, kept = case.params["n_vis"], case.params["keep"]
    fraction, divide = case.params["recycle_frac"], case.params["cluster_div"]
    attention = view.signals["text_attention"].mean(1)
    scores = mean_rows(attention, chosen)
    tokens, clusters = recycled(n - kept, fraction, divide)
    assert clusters == int(case["out_n_clusters"])
    keep = top_mask(scores, kept)
    noise = 1e-6 * case["in_density_noise"]
    check(case, recycle(view.x, keep, scores, tokens, clusters, view.valid, noise), view.x, exact=True)

    # the reducer itself: the same tokens, and clusters up to the authors' random noise on the density
    reducer = make_reducer("sparsevlm", {"recycle": fraction, "divide": divide})
    budget = int(case["out_n_vis_after"])
    if recycling_split(n, budget, fraction, divide) == kept:
        check(case, reducer.assign(view, budget), view.x, exact=False)


def test_published_counts_come_back() -> None:
    for counts in ((300, 200, 110), (303, 110, 36), (66, 30, 17)):
        n = 576
        for kept in counts:
            budget = kept + recycled(n - kept)[1]
            assert recycling_split(n, budget) == kept
            n = budget
