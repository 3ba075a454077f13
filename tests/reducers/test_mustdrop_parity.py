"""MustDrop's thresholds in the language model against the authors' code, its cap and its presets."""

import pytest
import torch

from autotc.policy import budget
from autotc.reducer import TokenView, make_reducer
from autotc.reducers.mustdrop import MustDrop
from tests.contracts.reducer import ANATOMIES
from tests.reducers.golden_cases import Case, cases


@pytest.mark.parametrize("case", cases("llm", "mustdrop_dual"))
def test_mustdrop_dual_parity(case: Case) -> None:
    attention, key = case["in_text_to_vis_attn"][None], case["in_key_set"]
    n, knobs = attention.shape[3], case.params
    shown = torch.zeros(1, 1, n)
    shown[0, 0, key] = torch.linspace(1, 0.5, len(key))
    view = TokenView(torch.zeros(1, n, 2), signals={"text_attention": attention, "cls_attention": shown})
    given = {"mass": knobs["global_thr"], "peak": knobs["individual_thr"]}

    def kept(share: float) -> torch.Tensor:
        view.state = {}
        return make_reducer("mustdrop", given | {"keys": share}).assign(view, n).anchors[0]

    if len(case["out_important"]):  # one token always stays
        assert torch.equal(kept(0.0), case["out_important"])
    together = kept((len(key) - 0.5) / n)
    assert torch.equal(together, case["out_vis_after_union"])
    assert torch.isin(together, key).nonzero()[:, 0].tolist() == case["out_key_set_new"].tolist()
    # the whole sequence: what is before the image, what is left of it, the text; renumbered
    first, behind = knobs["v_start"], attention.shape[2]
    parts = (torch.arange(first), together + first, torch.arange(behind) + first + n)
    assert torch.equal(torch.cat(parts), case["out_merged_indices"])
    assert case["out_position_ids"][0].tolist() == list(range(first + len(together) + behind))


def view_of(looks: list[float], shown: list[float]) -> TokenView:
    """Tokens by the attention of one text token and by CLS attention."""
    signals = {
        "text_attention": torch.tensor(looks)[None, None, None],
        "cls_attention": torch.tensor(shown)[None, None],
    }
    return TokenView(torch.zeros(1, len(looks), 2), signals=signals)


def test_mustdrop_keeps_key_tokens_first_then_by_attention() -> None:
    view = view_of([0.0, 0.3, 0.1, 0.2, 0.0, 0.0], [0.5, 0.0, 0.1, 0.2, 0.4, 0.3])
    reducer = make_reducer("mustdrop", {"keys": 2 / 6})
    for cap, expected in ((6, [0, 1, 2, 3, 4]), (4, [0, 1, 3, 4]), (2, [0, 4]), (1, [0]), (0, [])):
        view.state = {}
        assert reducer.assign(view, cap).anchors[0].tolist() == expected


def test_mustdrop_never_leaves_an_image_without_tokens() -> None:
    reducer = make_reducer("mustdrop", {"keys": 0.0, "mass": 0.1, "peak": 0.1})
    looks = [0.01] * 5 + [0.011] + [0.01] * 14
    assert reducer.assign(view_of(looks, looks), 8).anchors.tolist() == [[5]]


def test_mustdrop_keeps_the_key_tokens_of_its_first_stage() -> None:
    shown = [0.3, 0.0, 0.5, 0.4, 0.2, 0.0, 0.0, 0.0]
    first = view_of([0.0] * 4 + [0.1, 0.2, 0.0, 0.1], shown)
    reducer = make_reducer("mustdrop", {"keys": 0.25})
    assert reducer.assign(first, 7).anchors.tolist() == [[2, 3, 4, 5, 7]]
    left = torch.tensor([0, 3, 4, 5, 7])  # had another reducer taken key token 2 away
    second = view_of([0.0, 0.0, 0.0, 0.1, 0.0], [shown[i] for i in left])
    second.source, second.grids = left[None], [(1, 2, 4)]
    assert reducer.assign(second, 4).anchors.tolist() == [[0, 1, 3]]  # tokens 0 and 3 are the best of these
    second.state = first.state
    assert reducer.assign(second, 4).anchors.tolist() == [[1, 3]]


@pytest.mark.parametrize(("preset", "mean"), list(zip(MustDrop.presets, (192, 128, 64), strict=True)))
def test_mustdrop_presets_average_the_published_count(preset, mean: int) -> None:
    window, *stages = preset.stages(ANATOMIES[0])
    counts = [budget(576, stage.keep) for stage in (window, *stages)]
    assert [stage.layer for stage in stages] == [(3, 32), (7, 32), (11, 32), (15, 32)]
    assert counts == sorted(counts, reverse=True)
    assert sum(n * layers for n, layers in zip(counts, (3, 4, 4, 4, 17), strict=True)) / 32 == pytest.approx(
        mean, abs=0.5
    )
