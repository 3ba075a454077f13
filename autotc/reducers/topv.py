"""TopV: what a token's input contributes to the outputs of its layer, as optimal transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import ranking

ROUNDS = 3


@dataclass(frozen=True)
class TopV(Reducer):
    """Keep the tokens of largest share in the transport from a layer's inputs to its outputs, and a sample.

    Signals: state before and after the layer ahead of the cut, distances on the grid; solver: three Sinkhorn
    rounds; selector: top-k, and evenly some of the tokens that would leave.

    Source: TopV: Compatible Token Pruning with Inference Time Optimization for Fast and Low-Memory Multimodal
        Vision Language Model, arXiv 2503.18278.
    Differs: a reconstruction from the paper's description, no code was published. States are compared at unit
        root mean square, the outputs without the layer's own norm. Rounds end on the outputs' side, so that
        the rows' sums say something (ending on the inputs' side they are all equal). The cost of an input's
        distance to the grid's centre is left out: it is the same for all outputs, so that balancing the inputs
        cancels it. The recovered tokens count into the budget and take at most half of it. The published
        counts are not known: the preset keeps half.
    Cost: distances between all states, and seven products of a vector with them.
    """

    name: ClassVar[str] = "topv"
    title: ClassVar[str] = "TopV"
    source: ClassVar[Source] = Source(
        "TopV: Compatible Token Pruning with Inference Time Optimization for Fast and Low-Memory Multimodal "
        "Vision Language Model",
        "2503.18278",
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("hidden_before",)
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "reconstruction"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "topv",
            lambda anatomy: (PresetStage("decoder", 0.5, (2, anatomy.decoder.layers)),),
            note="half of the tokens leave before layer 2",
        ),
    )

    feature: float = param(1.0, low=0.0, high=10.0, help="Weight of the distance between states.")
    spatial: float = param(1.0, low=0.0, high=10.0, help="Weight of the distance on the grid.")
    sigma: float = param(10.0, low=0.5, high=100.0, help="Width of the distance on the grid, in tokens.")
    smooth: float = param(0.1, low=0.03, high=10.0, log=True, help="Entropy's weight in the transport.")
    recover: float = param(0.25, low=0.0, high=0.9, help="Share of the dropped tokens that comes back.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        keep = torch.zeros_like(view.valid)
        before = view.signals["hidden_before"]
        pairs = zip(view.counts.tolist(), budgets(view, budget).tolist(), strict=True)
        for row, (n, wanted) in enumerate(pairs):
            if n == 0:
                continue
            cost = self._cost(before[row, :n], view.x[row, :n], view.source[row, :n], view.grids[row])
            order = ranking(contribution(cost, self.smooth)[None])[0]
            back = min(int(self.recover * (n - wanted) / (1 - self.recover)), wanted // 2)
            keep[row, order[: wanted - back]] = True
            dropped = order[wanted - back :].sort().values
            keep[row, dropped[torch.arange(back, device=order.device) * len(dropped) // max(back, 1)]] = True
        return select(keep)

    def _cost(self, before: Tensor, after: Tensor, source: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Return the costs (N, N) of moving input i to output j."""
        _, h, w = grid
        at = torch.stack((source // w % h, source % w), 1).float()
        unlike = _squared(_even(before), _even(after))
        away = 1 - (-_squared(at, at) / (2 * self.sigma**2)).exp()
        return self.feature * _scaled(unlike) + self.spatial * _scaled(away)

    def flops(self, shape: Shape) -> float:
        distances = 2 * shape.n**2 * (shape.d + 2)
        return distances + (2 * (2 * ROUNDS + 1) + 12) * shape.n**2


def contribution(cost: Tensor, smooth: float) -> Tensor:
    """Return the row sums (N,) of the transport at costs (N, M), both sides weighted evenly.

    Args:
        cost: (N, M).
        smooth: weight of the entropy.
    """
    n, m = cost.shape
    kernel = (-cost / smooth).exp()
    columns = cost.new_full((m,), 1.0)
    for _ in range(ROUNDS):
        rows = 1 / (n * (kernel @ columns))
        columns = 1 / (m * (kernel.T @ rows))
    return rows * (kernel @ columns)


def _even(x: Tensor) -> Tensor:
    """Return the rows of x (N, D) at unit root mean square; a zero row stays zero."""
    x = x.float()
    return x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distances (N, M) of the rows of a (N, D) and b (M, D)."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


def _scaled(x: Tensor) -> Tensor:
    """Return x brought to 0..1; all zeros where it is constant."""
    low, high = x.min(), x.max()
    return (x - low) / (high - low).clamp_min(1e-12)
