"""GreedyPrune, a reconstruction, against its rule written out pick by pick."""

import pytest
import torch
from torch import Tensor

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.greedyprune import trade


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def picked(x: Tensor, text: Tensor, count: int, weight: float) -> list[int]:
    """Pick by mean cosine with the text less weight times the largest cosine with a pick."""
    about = [sum(cosine(token, word) for word in text) / len(text) for token in x]
    chosen: list[int] = []
    while len(chosen) < count:
        gains = {
            i: about[i] - weight * max((cosine(x[i], x[j]) for j in chosen), default=0.0)
            for i in range(len(x))
            if i not in chosen
        }
        chosen.append(max(gains, key=lambda i: gains[i]))
    return chosen


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("count", [1, 4, 11, 20])
def test_greedyprune_is_its_rule(count: int, weight: float) -> None:
    random = torch.Generator().manual_seed(count)
    x, text = torch.randn(20, 6, generator=random), torch.randn(7, 6, generator=random)
    words = torch.tensor([[True] * 5 + [False] * 2])
    view = TokenView(x[None], signals={"text_hidden": text[None]}, text_valid=words)
    kept = make_reducer("greedyprune", {"likeness": weight}).assign(view, count).anchors[0].tolist()
    assert kept == sorted(picked(x, text[:5], count, weight))


def test_rows_stop_at_their_own_count() -> None:
    relevance = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 9.0]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    order = trade(relevance, torch.zeros(2, 3, 3), torch.tensor([3, 1]), valid, 1.0)
    assert order[0].tolist() == [0, 1, 2] and order[1, 0] == 1
