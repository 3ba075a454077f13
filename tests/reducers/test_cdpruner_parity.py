"""CDPruner against the authors' code."""

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.cdpruner import choose, relevance
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("vision", "cdpruner"))
def test_cdpruner_parity(case: Case) -> None:
    x, mask = case["in_projected_features"], case["out_keep_mask"]
    b, n = mask.shape
    text = case["in_clip_text_embeds"].expand(b, -1, -1)
    words, valid = torch.ones(text.shape[:2], dtype=torch.bool), torch.ones(b, n, dtype=torch.bool)
    relevant = relevance(case["in_clip_image_embeds"], text, words, valid, together=True)
    order = choose(x, relevant, torch.full((b,), case.params["keep"]), valid)
    for row in range(b):
        assert sorted(order[row].tolist()) == mask[row].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("case", cases("vision", "cdpruner"))
def test_cdpruner_parity_of_the_whole_where_the_space_is_one(case: Case) -> None:
    # the reducer itself reads relevance from the tokens it prunes, so the two parts must agree there
    x, text = case["in_clip_image_embeds"][:1], case["in_clip_text_embeds"][None]
    view = TokenView(x, signals={"text_embeds": text})
    assignment = make_reducer("cdpruner", {"sign": -1}).assign(view, case.params["keep"])
    words = torch.ones(text.shape[:2], dtype=torch.bool)
    relevant = relevance(x, text, words, view.valid, together=True)
    order = choose(x, relevant, torch.tensor([case.params["keep"]]), view.valid)
    assert assignment.anchors[0].tolist() == sorted(order[0].tolist())
