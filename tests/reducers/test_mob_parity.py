"""MoB against plain loops written from the paper's pseudocode (its authors published no code)."""

import pytest
import torch
from torch import Tensor

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.mob import MoB
from tests.contracts.reducer import ANATOMIES


def reference(image: Tensor, text: Tensor, count: int, for_prompt: int, each: int) -> list[int]:
    """Return the tokens kept, those for the prompt first.

    Args:
        image: (N, D).
        text: (T, D).
        for_prompt: tokens for the prompt.
        each: tokens that one text token proposes.
    """
    visual = [v / v.norm() for v in image.double()]
    proposed: dict[int, float] = {}
    for word in text.double():
        near = [float(v @ word / word.norm()) for v in visual]
        for i in sorted(range(len(near)), key=lambda i: -near[i])[:each]:
            proposed[i] = max(near[i], proposed.get(i, -2.0))
    chosen = sorted(proposed, key=lambda i: -proposed[i])[:for_prompt]
    distance = [min((1 - float(v @ visual[s]) for s in chosen), default=3.0) for v in visual]
    while len(chosen) < count:
        best = max((d, -i) for i, d in enumerate(distance) if i not in chosen)[1] * -1
        chosen.append(best)
        distance = [min(d, 1 - float(v @ visual[best])) for v, d in zip(visual, distance, strict=True)]
    return chosen


# count, share for the prompt, share a text token proposes, how many that is
SETTINGS = [
    (16, 0.5, 0.25, 8, 2),
    (16, 0.25, 1.0, 4, 4),
    (20, 0.9, 0.025, 18, 1),  # too few proposals for 18 places
    (16, 0.0, 0.5, 0, 0),
    (16, 1.0, 0.5, 16, 8),
]


@pytest.mark.parametrize(("count", "prompt", "proposals", "for_prompt", "each"), SETTINGS)
def test_mob_is_the_pseudocode(
    count: int, prompt: float, proposals: float, for_prompt: int, each: int
) -> None:
    random = torch.Generator().manual_seed(count)
    x, text = torch.randn(2, 60, 6, generator=random), torch.randn(2, 7, 6, generator=random)
    words = torch.arange(7)[None] < torch.tensor([[7], [3]])
    view = TokenView(x, signals={"text_embeds": text}, text_valid=words)
    kept = make_reducer("mob", {"prompt": prompt, "proposals": proposals}).assign(view, count)
    for row in range(2):
        expected = reference(x[row], text[row, words[row]], count, for_prompt, each)
        assert kept.anchors[row].tolist() == sorted(expected)


def test_mob_without_text_spreads() -> None:
    x = torch.randn(1, 20, 4, generator=torch.Generator().manual_seed(0))
    view = TokenView(x, signals={"text_embeds": torch.zeros(1, 0, 4)}, text_valid=torch.ones(1, 0).bool())
    expected = reference(x[0], torch.zeros(0, 4), 6, 2, 1)
    assert make_reducer("mob").assign(view, 6).anchors[0].tolist() == sorted(expected)


def test_mob_presets_give_the_published_split() -> None:
    for preset, published in zip(MoB.presets, ((192, 64, 8), (128, 48, 6), (64, 32, 4)), strict=True):
        (stage,) = preset.stages(ANATOMIES[0])
        count = round(576 * stage.keep)
        mob = make_reducer("mob", dict(stage.params))
        for_prompt = round(mob.prompt * count)
        assert (count, for_prompt, round(mob.proposals * for_prompt)) == published
