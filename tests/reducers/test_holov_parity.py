"""HoloV against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.holov import shares, stretch_scores
from tests.reducers.golden_cases import Case, cases


def beta_of(case: Case) -> float:
    """Return the weight of the spread against the attention's (LLaVA's `alpha`, the Qwen port's `beta`)."""
    return case.params["beta"] / case.params["alpha"] if "beta" in case.params else case.params["alpha"]


@pytest.mark.parametrize("case", [*cases("vision", "holov_llava"), *cases("vision", "holov_qwen")])
def test_holov_parity(case: Case) -> None:
    x, attention = case["in_features"], case["in_attn"].view(1, -1)
    keep, parts, beta = case.params["keep"], case.params["num_patches"], beta_of(case)
    if case.params.get("power", 1) != 1:
        pytest.skip("the Qwen port's power of the shares is not a parameter here")
    view = TokenView(x, signals={"cls_attention": attention[:, None]})
    assignment = make_reducer("holov", {"parts": parts, "beta": beta}).assign(view, keep)
    assert assignment.kept.tolist() == [keep]
    mine = assignment.anchors[0].tolist()
    # theirs: stretch by stretch, by attention within one; zero rows at the end where a stretch had too few
    theirs = case["out_tokens"][0]
    real = theirs[(theirs != 0).any(-1)]
    places = [(x[0] == token).all(-1).nonzero()[0, 0].item() for token in real]
    if "out_positions" in case:
        assert places == [p for p in case["out_positions"].tolist() if p >= 0]
    if len(places) == keep:
        assert mine == sorted(places)
    else:  # the rest, which they leave empty, goes to the highest attention left
        rest = [i for i in attention[0].argsort(descending=True).tolist() if i not in places]
        assert mine == sorted([*places, *rest[: keep - len(places)]])


@pytest.mark.parametrize("case", [*cases("vision", "holov_llava"), *cases("vision", "holov_qwen")])
def test_holov_shares_parity(case: Case) -> None:
    x, attention = case["in_features"][0], case["in_attn"].flatten()
    keep, parts = case.params["keep"], case.params["num_patches"]
    wanted = shares(stretch_scores(x, attention, parts, beta_of(case)), keep)
    assert sum(wanted) == keep
    stretch = torch.arange(len(x)).tensor_split(parts)
    theirs = case["out_tokens"][0]
    found = [(x == token).all(-1).nonzero()[0, 0].item() for token in theirs[(theirs != 0).any(-1)]]
    counts = [sum(i in set(s.tolist()) for i in found) for s in stretch]
    assert counts == [min(w, len(s)) for w, s in zip(wanted, stretch, strict=True)]
