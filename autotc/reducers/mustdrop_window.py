"""MustDrop's merging inside the tower: windows of neighbours that look alike become one token each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cells, normalised, ranking


def likeness(x: Tensor, window: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean cosine between different tokens of each window, and the windows' numbers of tokens.

    Args:
        x: (N, D).
        window: (N,) int64, the window of each token.
        count: windows there are; those with fewer than two tokens get -inf.

    Returns:
        (count,) float32 and (count,) int64.
    """
    unit = normalised(x)
    total = unit.new_zeros(count, x.shape[-1]).index_add_(0, window, unit)
    itself = unit.new_zeros(count).index_add_(0, window, unit.square().sum(-1))
    members = torch.bincount(window, minlength=count)
    pairs = members * (members - 1)
    mean = (total.square().sum(-1) - itself) / pairs.clamp_min(1)
    return mean.masked_fill(pairs == 0, -torch.inf), members


@dataclass(frozen=True)
class MustDropWindow(Reducer):
    """Average every window of the grid whose tokens are alike, and more of them while the budget asks for it.

    Signal: mean cosine of the tokens in a window; merger: mean of a window, weighted by size.

    Source: Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model (MustDrop),
        arXiv 2411.10803.
    Differs: the budget is a cap: where windows above the threshold don't meet it, the next most similar ones
        merge as well, and neighbouring windows share a token where one each is too many. Each image merges its own
        number of windows (the authors take the smallest of a batch). Tokens stay in the image's order, a
        merged one at its window's last place (theirs go before all others). Windows at the far edges of a
        grid may be smaller. Ties go to the lowest index.
    Cost: sums over windows, 4 N D.
    """

    name: ClassVar[str] = "mustdrop_window"
    title: ClassVar[str] = "MustDrop (windows)"
    source: ClassVar[Source] = Source(
        "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model", "2411.10803"
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    adaptive: ClassVar[bool] = True
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"

    threshold: float = param(0.8, low=0.0, high=1.0, help="Mean cosine from which a window is merged.")
    window: int = param(3, low=2, high=6, help="Side of a window in tokens.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        target = torch.full_like(view.source, -1)
        windows = cells(view.source, view.grids, self.window)
        for row, cap in enumerate(budgets(view, budget).tolist()):
            n = int(view.counts[row])
            if cap:
                target[row, :n] = self._targets(view.x[row, :n], windows[row, :n], cap)
        return merge(target, normalise="size")

    def _targets(self, x: Tensor, window: Tensor, cap: int) -> Tensor:
        """Return where each token (N,) of one image goes, so that at most `cap` are left."""
        numbers, window = window.unique(return_inverse=True)
        count = min(len(numbers), cap)
        window = window * count // len(numbers)
        alike, members = likeness(x, window, count)
        order = ranking(alike[None])[0]
        left = len(x) - (members - 1)[order].cumsum(0)
        merged = int(torch.maximum((alike >= self.threshold).sum(), (left > cap).sum() + (len(x) > cap)))
        chosen = torch.zeros_like(order, dtype=torch.bool).index_fill_(0, order[:merged], True)
        itself = torch.arange(len(x), device=x.device)
        last = torch.zeros_like(order).scatter_reduce_(0, window, itself, reduce="amax", include_self=False)
        return torch.where(chosen[window], last[window], itself)

    def flops(self, shape: Shape) -> float:
        return 4.0 * shape.n * shape.d
