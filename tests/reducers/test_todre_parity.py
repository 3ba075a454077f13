"""ToDRE against plain loops written from the paper (its authors published no code)."""

import pytest
import torch
from torch import Tensor

from autotc.reducer import TokenView, make_reducer


def reference(x: Tensor, attention: Tensor, count: int) -> list[int]:
    """Return the tokens (N, D) chosen, the most attended (N,) first."""
    unit = [row / row.norm() for row in x.double()]
    chosen = [max(range(len(x)), key=lambda i: float(attention[i]))]
    while len(chosen) < count:
        sums = {i: sum(float(unit[i] @ unit[c]) for c in chosen) for i in range(len(x)) if i not in chosen}
        chosen.append(min(sums, key=lambda i: sums[i]))
    return chosen


@pytest.mark.parametrize("signal", ["cls_attention", "received_attention"])
def test_todre_is_the_greedy_of_the_paper(signal: str) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, 49, 6, generator=random) + 1  # with a common part, or all cosines would be near zero
    attention = torch.rand(3, 4, 49, generator=random)
    other = {"cls_attention": "received_attention", "received_attention": "cls_attention"}[signal]
    signals = {signal: attention} | ({other: 1 - attention} if signal == "cls_attention" else {})
    count = torch.tensor([1, 12, 48])
    kept = make_reducer("todre").assign(TokenView(x, signals=signals), count)
    for row, k in enumerate(count.tolist()):
        expected = reference(x[row], attention[row].mean(0), k)
        assert kept.anchors[row, :k].tolist() == sorted(expected)
        if k == 12:  # the greedy by the nearest chosen token is another one
            chosen, unit = expected[:1], torch.nn.functional.normalize(x[row], dim=-1)
            while len(chosen) < k:
                near = (unit @ unit[chosen].T).amax(1)
                near[chosen] = 2.0
                chosen.append(int(near.argmin()))
            assert sorted(chosen) != sorted(expected)
