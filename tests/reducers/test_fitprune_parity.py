"""FitPrune's run time and its search's rule for one layer against the authors' code."""

import pytest
import torch
from torch import Tensor

from autotc import kernels
from autotc.anatomy import Anatomy
from autotc.reducer import TokenView, make_reducer, reducers
from autotc.reducers.fitprune import RECIPE_60, from_text, spare
from tests.contracts.reducer import ANATOMIES
from tests.reducers.golden_cases import Case, cases


def statistics(case: Case) -> tuple[Tensor, Tensor]:
    """Return what text and image give each visual token, (1, N) each."""
    attention, n = case["in_attn_vis_cols"][None], case.params["n_vis"]
    own = kernels.peak_attention(attention[:, :, :n], torch.ones(1, n, dtype=torch.bool))
    return from_text(attention[:, :, n:]), own


@pytest.mark.parametrize("case", cases("llm", "fitprune_runtime"))
def test_fitprune_parity(case: Case) -> None:
    attention, n, start = case["in_attn_vis_cols"][None], case.params["n_vis"], case.params["sys_len"]
    _, own = statistics(case)
    view = TokenView(
        torch.zeros(1, n, 1), signals={"text_attention": attention[:, :, n:], "peak_attention": own}
    )
    assignment = make_reducer("fitprune").assign(view, n - case.params["delete"])
    gone = set(range(n)) - set(assignment.anchors[0].tolist())
    assert gone == set(case["out_deleted_order"].tolist())
    assert assignment.anchors[0].tolist() == case["out_keep_mask"][start : start + n].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("case", cases("llm", "fitprune_layer_stat"))
def test_fitprune_layer_parity(case: Case) -> None:
    cross, own = statistics(case)
    cross = cross / (case["in_attn_vis_cols"].shape[1] - case.params["n_vis"])
    both = []
    for name, scores in (("cross", cross[0]), ("self", own[0])):
        mass = float(case[f"out_weightsum_{name}"])
        assert float(scores.sum()) == pytest.approx(mass, abs=1e-4)
        gone = spare(scores, case.params["alpha"], mass)
        assert sorted(gone.tolist()) == sorted(case[f"out_del_{name}"].tolist())
        both.append(set(gone.tolist()))
    assert both[0] & both[1] == set(case["out_deleted"].tolist())


def test_padded_text_says_nothing() -> None:
    attention = torch.rand(1, 2, 3, 6)
    words = torch.tensor([[True, True, False]])
    torch.testing.assert_close(from_text(attention, words), attention[:, :, :2].amax(1).sum(1))


@pytest.mark.parametrize("anatomy", ANATOMIES, ids=lambda a: a.family)
def test_recipe_deletes_what_was_published(anatomy: Anatomy) -> None:
    (preset,) = reducers.get("fitprune").presets
    stages = preset.stages(anatomy)
    left = [round(stage.keep * 576) for stage in stages]
    assert left[-1] == 576 - sum(RECIPE_60)
    if anatomy.decoder.layers == 32:
        deleted = [a - b for a, b in zip([576, *left], left, strict=False)]
        behind = [stage.layer[0] - 1 for stage in stages if stage.layer]
        assert dict(zip(behind, deleted, strict=True)) == {i: d for i, d in enumerate(RECIPE_60) if d}


def test_recipe_saves_what_it_is_published_for() -> None:
    def cost(before: int, after: int) -> float:
        """The authors' count: visual tokens only, deletion between attention and its output."""
        d, m = 4096, 11008
        return 3 * before * d**2 + 2 * before**2 * d + after * d**2 + 3 * after * d * m

    n, dense, spent = 576, 0.0, 0.0
    for away in RECIPE_60:
        dense += cost(576, 576)
        spent += cost(n, n - away)
        n -= away
    assert len(RECIPE_60) == 32 and 1 - spent / dense == pytest.approx(0.6, abs=0.01)
