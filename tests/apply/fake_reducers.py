"""Reducers for tests of the engine: uneven counts, and merging with made-up weights."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import autotc.reducer
from autotc.assignment import Assignment, merge, pool, select
from autotc.reducer import Budget, Reducer, Source, TokenView, budgets

ALL = ("vision", "projector", "decoder")


def _chosen(view: TokenView, budget: Budget) -> torch.Tensor:
    """Mark tokens by a fixed scramble of their sources; an image keeps 0 to 3 fewer than it may, by its
    content.
    """
    count = budgets(view, budget)
    fewer = view.image[:, :1].sum(1) + 2 * (view.x.double().sum((1, 2)) > 0)
    count = torch.maximum(count - fewer, count.clamp_max(1))
    rank = ((view.source * 37 + 11) % 101).masked_fill(~view.valid, 1000).argsort(1).argsort(1)
    return (rank < count[:, None]) & view.valid


@dataclass(frozen=True)
class Uneven(Reducer):
    """Keeps other counts in every image."""

    name = "uneven"
    title = "uneven"
    source = Source("test")
    sites = ALL
    adaptive = True

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        return select(_chosen(view, budget))


@dataclass(frozen=True)
class Inside(Uneven):
    """The same between attention and MLP."""

    name = "inside"
    where = "after_attention"


@dataclass(frozen=True)
class Merging(Reducer):
    """Sends every third of the others into a kept token, weighted by size; sizes bias later blocks."""

    name = "merging"
    title = "merging"
    source = Source("test")
    sites = ALL

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        keep = _chosen(view, budget)
        place = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
        heads = torch.where(keep, place, -1).amax(1, keepdim=True)
        into = torch.where(view.source % 3 == 0, heads, -1)
        return merge(torch.where(keep, place, torch.where(view.valid, into, -1)), 1 + view.source % 4)


@dataclass(frozen=True)
class Biased(Merging):
    """Merging inside the block, with size bias."""

    name = "biased"
    sites = ("vision",)
    where = "after_attention"
    size_bias = True


@dataclass(frozen=True)
class Soft(Reducer):
    """Every row mixes all tokens of its image."""

    name = "soft"
    title = "soft"
    source = Source("test")
    sites = ALL

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        keep = _chosen(view, budget)
        anchors = select(keep)
        random = torch.rand(*anchors.anchors.shape, keep.shape[1], generator=torch.Generator().manual_seed(0))
        return pool(random.softmax(-1) * view.valid[:, None], anchors.anchors, anchors.valid)


FAKES = {cls.name: cls for cls in (Uneven, Inside, Merging, Biased, Soft)}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let policies name the reducers of this file."""
    registry = autotc.reducer.reducers
    get, names = registry.get, registry.names()
    monkeypatch.setattr(registry, "get", lambda name: FAKES[name] if name in FAKES else get(name))
    monkeypatch.setattr(registry, "names", lambda: (*names, *FAKES))
