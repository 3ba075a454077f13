"""TopV, a reconstruction, against the paper's description written out token by token."""

import math

import pytest
import torch

from autotc.reducer import TokenView, make_reducer
from autotc.reducers.topv import contribution


def costs(
    before: torch.Tensor, after: torch.Tensor, places: list[tuple[int, int]], side: int
) -> list[list[float]]:
    """The paper's three costs, each brought to 0..1 and weighted 1, 1 and 0.01."""
    n = len(before)

    def unit(x: torch.Tensor) -> list[float]:
        values = x.tolist()
        scale = math.sqrt(sum(v * v for v in values) / len(values))
        return [v / scale for v in values]

    a, b = [unit(x) for x in before], [unit(x) for x in after]
    feature = [
        [sum((p - q) ** 2 for p, q in zip(a[i], b[j], strict=True)) for j in range(n)] for i in range(n)
    ]
    spatial = [
        [1 - math.exp(-(math.dist(places[i], places[j]) ** 2) / 200) for j in range(n)] for i in range(n)
    ]
    middle = ((side - 1) / 2, (side - 1) / 2)
    central = [[math.dist(places[i], middle)] * n for i in range(n)]
    total = [[0.0] * n for _ in range(n)]
    for weight, table in ((1.0, feature), (1.0, spatial), (0.01, central)):
        low, high = min(map(min, table)), max(map(max, table))
        for i in range(n):
            for j in range(n):
                total[i][j] += weight * (table[i][j] - low) / (high - low)
    return total


def transported(cost: list[list[float]], smooth: float) -> list[float]:
    """Row sums after three rounds of scaling rows, then columns, to 1 / n."""
    n = len(cost)
    plan = [[math.exp(-c / smooth) for c in row] for row in cost]
    for _ in range(3):
        plan = [[v / sum(row) / n for v in row] for row in plan]
        sums = [sum(plan[i][j] for i in range(n)) for j in range(n)]
        plan = [[plan[i][j] / sums[j] / n for j in range(n)] for i in range(n)]
    return [sum(row) for row in plan]


@pytest.mark.parametrize("budget", [30, 24, 12, 5, 1])
def test_topv_is_what_the_paper_describes(budget: int) -> None:
    random = torch.Generator().manual_seed(budget)
    side, n = 6, 36
    before, after = torch.randn(2, n, 8, generator=random)
    cost = costs(before, after, [divmod(i, side) for i in range(n)], side)
    sums = transported(cost, 0.1)
    torch.testing.assert_close(
        contribution(torch.tensor(cost), 0.1), torch.tensor(sums), atol=1e-6, rtol=1e-4
    )
    back = min(int((n - budget) / 3), budget // 2)  # a quarter of what top-k drops
    best = sorted(range(n), key=lambda i: -sums[i])[: budget - back]
    dropped = [i for i in range(n) if i not in best]
    expected = {*best, *(dropped[i * len(dropped) // back] for i in range(back))}
    view = TokenView(after[None], signals={"hidden_before": before[None]})
    assert set(make_reducer("topv").assign(view, budget).anchors[0].tolist()) == expected
    assert len(expected) == budget


def test_every_fourth_dropped_token_comes_back() -> None:
    random = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 1, 100, 8, generator=random)
    view = TokenView(after, signals={"hidden_before": before})
    without = make_reducer("topv", {"recover": 0.0}).assign(view, 60).anchors[0].tolist()
    dropped = [i for i in range(100) if i not in without]
    kept = make_reducer("topv").assign(view, 70).anchors[0].tolist()
    assert kept == sorted(without + dropped[::4])


def test_cost_is_read_in_the_original_grid() -> None:
    states = torch.ones(1, 9, 4)
    source = [0, 1, 2, 7, 8, 9, 14, 24, 48]  # of 7 x 7: a corner and two tokens alone
    places = [divmod(i, 7) for i in source]

    def sums(at: list[tuple[int, int]]) -> list[float]:
        spatial = [[1 - math.exp(-(math.dist(p, q) ** 2) / 200) for q in at] for p in at]
        widest = max(map(max, spatial))
        return transported([[c / widest for c in row] for row in spatial], 0.1)

    best = sorted(range(9), key=lambda i: -sums(places)[i])[:3]
    assert set(best) != set(sorted(range(9), key=lambda i: -sums([divmod(i, 3) for i in range(9)])[i])[:3])
    view = TokenView(
        states, grids=[(1, 7, 7)], source=torch.tensor([source]), signals={"hidden_before": states}
    )
    kept = make_reducer("topv", {"feature": 0.0, "recover": 0.0}).assign(view, 3)
    assert kept.anchors[0].tolist() == sorted(best)
