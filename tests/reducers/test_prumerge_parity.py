"""PruMerge and PruMerge+ against the authors' code."""

import pytest
import torch

from autotc.kernels import attention_row
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.prumerge import outlier_ratio
from tests.reducers.golden_cases import Case, cases

BOTH = [
    *((c, False) for c in cases("vision", "prumerge")),
    *((c, True) for c in cases("vision", "prumerge_plus")),
]
PARAMS = [pytest.param(*c.values, plus, id=c.id) for c, plus in BOTH]


@pytest.mark.parametrize(("case", "plus"), PARAMS)
def test_prumerge_parity(case: Case, plus: bool) -> None:
    x, keys, query = case["in_hidden"][:, 1:], case["in_key"], case["in_query_cls"]
    # one head over the whole width, the CLS key's own mass left out
    attention = attention_row(query, keys[:, None])[..., 1:]
    torch.testing.assert_close(attention[:, 0], case["out_cls_attn"], rtol=1e-4, atol=1e-6)
    if case.params["adaptive"]:
        assert outlier_ratio(attention[0, 0]) == pytest.approx(float(case["out_outlier_ratio"]), abs=1e-9)
    elif plus:
        pytest.skip("their spaced tokens repeat kept ones here, so that a token comes out twice")
    params = {
        "plus": plus,
        "outliers": case.params["adaptive"],
        "ratio": case.params["reduction_ratio"],
        "neighbours": case.params["neighbours"],
    }
    reducer = make_reducer("prumerge", params)
    view = TokenView(x, signals={"final_cls_attention": attention[:, 0], "final_keys": keys[:, 1:]})
    assignment = reducer.assign(view, x.shape[1])
    theirs = case["out_tokens"][0]
    assert assignment.kept.tolist() == [len(theirs)]
    # theirs: kept tokens in the order of choice, then the sum of the dropped ones
    chosen = reducer.choose(attention[0, 0]).tolist()
    places = assignment.anchors[0].tolist()
    (last,) = set(places) - set(chosen)
    order = [places.index(i) for i in [*chosen, last]]
    torch.testing.assert_close(assignment.apply(x)[0, order], theirs, rtol=1e-3, atol=1e-4)


def test_prumerge_takes_the_budget_as_a_cap() -> None:
    random = torch.Generator().manual_seed(0)
    signals = {
        "final_cls_attention": (torch.randn(1, 64, generator=random) * 2).softmax(-1),
        "final_keys": torch.randn(1, 64, 8, generator=random),
    }
    view = TokenView(torch.randn(1, 64, 4, generator=random), signals=signals)
    free = int(make_reducer("prumerge").assign(view, 64).kept)
    assert 1 < free < 64
    capped = make_reducer("prumerge").assign(view, free - 1)
    assert capped.kept.tolist() == [free - 1]
