"""AIM's pruning against the authors' code."""

import pytest
import torch

from autotc import kernels
from autotc.anatomy import Anatomy
from autotc.reducer import TokenView, make_reducer, reducers
from autotc.reducers.aim_prune import importance
from tests.contracts.reducer import ANATOMIES
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "aim_pagerank"))
def test_aim_prune_parity(case: Case) -> None:
    knobs, before, after = case.params, case["in_mask_before"][0], case["out_mask_after"][0]
    flow = kernels.attention_flow(case["in_masked_logits"][None], knobs["tau"], knobs["iters"])
    image = torch.arange(knobs["sys"], knobs["sys"] + knobs["n_vis"])
    alive = image[before[image] > 0]
    # the authors set text to 1 and hidden tokens to -1 afterwards
    torch.testing.assert_close(
        importance(flow)[0, alive], case["out_importance"][0, alive], atol=1e-4, rtol=1e-4
    )
    view = TokenView(torch.zeros(1, len(alive), 1), signals={"flow_attention": flow[..., alive]})
    # they keep int((N - P) r + P) of all N, P of them protected: that many of the image
    text = len(before) - knobs["n_vis"]
    budget = int(knobs["n_vis"] * knobs["retain_rate"] + text) - text
    assignment = make_reducer("aim_prune").assign(view, budget)
    assert alive[assignment.anchors[0]].tolist() == image[after[image] > 0].tolist()


@pytest.mark.parametrize("anatomy", ANATOMIES, ids=lambda a: a.family)
def test_whole_recipe_merges_first_and_ends_with_none(anatomy: Anatomy) -> None:
    whole = reducers.get("aim_prune").presets[0].stages(anatomy)
    assert (whole[0].site, whole[0].reducer, whole[0].keep) == ("projector", "aim", 0.125)
    assert [stage.keep * 576 for stage in whole[1:]] == [63, 54, 45, 36, 27, 18, 9, 0]
    first = 15 if anatomy.decoder.layers == 28 else 14
    layers = anatomy.decoder.layers
    assert [stage.layer for stage in whole[1:]] == [(first + i, layers) for i in range(8)]
