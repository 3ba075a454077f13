"""FitPrune: the recipe that loses the least attention, fitted to each budget, without a score.

Source: Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models, arXiv
2409.10197. In each layer and example the tokens leave that both the text's and the image's own attention can spare
when all layers may lose the same share of theirs; the share is bisected until the budget is met.
Differs: attention of one unpruned forward an example stands for that of the pruned model, which the authors run again
for each share; a layer's tokens leave before the next layer; a recipe is that of the last share that met the budget,
where the authors take the last share that was tried; counts are means over examples, not rounded down. Budgets are
spread over those of the study in the place of one target.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from autotc.policy import Policy, map_depth
from autotc.reducers.fitprune import spare
from autotc.search.space import Space
from autotc.search.strategies.attention import Attention, attention_of
from autotc.search.strategies.base import Plan, Replayed
from autotc.search.strategies.layers import Layers
from autotc.search.strategies.spread import GOLDEN

PRECISION = 0.01  # of the share that is bisected
REPEATS = 64  # recipes in a row that were tried already: there are no others


class Sample(Protocol):
    """One example on its way through the layers of a model."""

    def attention(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the tokens still there receive in this layer from the text and from the image, (n,) each."""

    def delete(self, gone: torch.Tensor) -> None:
        """Go on to the next layer without some of them."""


Within = Callable[[np.ndarray], bool]  # of the counts (S, L) deleted so far: whether no more has to be


def fit(
    samples: Sequence[Sample], masses: np.ndarray, share: float, within: Within
) -> tuple[np.ndarray, bool]:
    """Delete layer by layer what can be spared until the budget is met.

    Args:
        samples: S examples before the first layer.
        masses: (S, L, 2) attention from the text and from the image to all tokens of the unpruned model.
        share: of it that each layer may lose, in [0, 1].
        within: whether the budget is met.

    Returns:
        How many tokens each layer deleted, (S, L), and whether the budget was met.
    """
    count, layers, _ = masses.shape
    deleted = np.zeros((count, layers), int)
    for layer in range(layers):
        if within(deleted):
            return deleted, True
        for i, sample in enumerate(samples):
            cross, own = sample.attention()
            gone = spare(cross, share, masses[i, layer, 0])
            gone = gone[torch.isin(gone, spare(own, share, masses[i, layer, 1]))]
            sample.delete(gone)
            deleted[i, layer] = len(gone)
    return deleted, within(deleted)


def bisect(
    run: Callable[[float], tuple[np.ndarray, bool]],
) -> tuple[np.ndarray, np.ndarray | None, list[tuple[float, bool]]]:
    """Find the smallest share with which the budget is met.

    Args:
        run: `fit` by share.

    Returns:
        What was deleted with the last share that was tried; with the last one that met the budget, None where none
        did; and the shares in order, with whether each met it.
    """
    low, high, trace = 0.0, 1.0, []
    best = None
    while high - low > PRECISION:
        share = (low + high) / 2
        deleted, met = run(share)
        trace.append((share, met))
        if met:
            best, high = deleted, share
        else:
            low = share
    return deleted, best, trace


class Stored:
    """An example whose unpruned attention is known; what is left receives what it received then."""

    def __init__(self, cross: np.ndarray, own: np.ndarray) -> None:
        self._cross, self._own = torch.from_numpy(cross), torch.from_numpy(own)
        self._there, self._layer = torch.arange(cross.shape[1]), 0

    def attention(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Sample`."""
        return self._cross[self._layer, self._there], self._own[self._layer, self._there]

    def delete(self, gone: torch.Tensor) -> None:
        """See `Sample`."""
        left = torch.ones(len(self._there), dtype=torch.bool)
        left[gone] = False
        self._there, self._layer = self._there[left], self._layer + 1


class FitPrune(Replayed):
    """See the module.

    Args:
        space: of the study.
        attention: of the model that the study runs.
    """

    def __init__(self, space: Space, attention: Attention) -> None:
        super().__init__()
        self._layers = Layers(space, "fitprune", "fitprune")
        self._attention, self._fits = attention, dict[float, np.ndarray]()
        evaluated, depth = space.evaluated.decoder.layers, space.full.decoder.layers
        self._behind = [map_depth(k, depth, evaluated) - 1 for k in self._layers.depths]
        self.calibration = len(attention.tokens)

    def plan(self) -> Plan:
        """See `Replayed`."""
        tried: set[str] = set()
        repeated = 0
        for i in itertools.count():
            policy = self.recipe(self._layers.budget(1 - (i * GOLDEN) % 1.0))
            if not policy.stages or policy.id in tried:
                repeated += 1
                if repeated == REPEATS:
                    return
                continue
            repeated = 0
            tried.add(policy.id)
            yield policy

    def recipe(self, budget: float) -> Policy:
        """Return the fitted policy of a budget, TFLOP in the convention of the study's limit."""
        layers = self._layers

        def run(share: float) -> tuple[np.ndarray, bool]:
            whole = self._fit(share)
            for stop in range(whole.shape[1] + 1):  # as soon as the budget is met, no more is deleted
                deleted = np.where(np.arange(whole.shape[1]) < stop, whole, 0)
                if layers.cost(layers.policy(self._keeps(deleted))) <= budget:
                    return deleted, True
            return whole, False

        last, best, _ = bisect(run)
        return layers.within(self._keeps(last if best is None else best), budget)

    def _fit(self, share: float) -> np.ndarray:
        if share not in self._fits:
            there = self._attention
            rows = [
                (c[:, :n], o[:, :n]) for c, o, n in zip(there.cross, there.own, there.tokens, strict=True)
            ]
            masses = np.stack([there.cross.sum(-1), there.own.sum(-1)], -1)
            self._fits[share], _ = fit([Stored(*row) for row in rows], masses, share, lambda deleted: False)
        return self._fits[share]

    def _keeps(self, deleted: np.ndarray) -> np.ndarray:
        """Return the share of the tokens left from each depth on."""
        gone = (deleted / self._attention.tokens[:, None]).mean(0).cumsum()
        return 1 - gone[self._behind]


def make(space: Space, seed: int) -> FitPrune:
    """Return the strategy; it does not depend on the seed."""
    Layers(space, "fitprune", "fitprune")  # what the study leaves out is said before what was not measured
    return FitPrune(space, attention_of(space.evaluated, "fitprune"))
