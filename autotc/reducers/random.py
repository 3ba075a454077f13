"""Random selection, the baseline every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Source, TokenView, budgets, param
from autotc.scoring import keep_top


@dataclass(frozen=True)
class Random(Reducer):
    """Keep tokens drawn at random, without replacement.

    A token's draw depends only on the seed, the example's id, the image and the token's original index:
    neither the batch, nor padding, nor earlier stages change it, so two runs of one example keep the same
    tokens.

    Source: baseline; papers compare with it (e.g. FastV, arXiv 2403.06764).
    Differs: nothing to differ from.
    Cost: none that counts.
    """

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random tokens"
    source: ClassVar[Source] = Source("Baseline: tokens drawn at random")
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction", "own"]] = "own"
    sites: ClassVar[tuple[str, ...]] = ("vision", "projector", "decoder")
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "random",
            lambda anatomy: (PresetStage("projector", 1 / 3),),
            note="random tokens enter the language model",
        ),
    )

    seed: int = param(0, low=0, high=2**31 - 1, search=False, help="Which of the random draws to use.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        return keep_top(draws(self.seed, view), budgets(view, budget), view.valid)


def draws(seed: int, view: TokenView) -> Tensor:
    """Return a random number a token, (B, N) int64 in 0..2^63-1."""
    row = _mix(view.ids.to(torch.int64) + seed * 0x632BE5AB)[:, None]
    return _mix(_mix(row + view.image) + view.source) & 0x7FFFFFFFFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """Scramble 64-bit integers (the SplitMix64 finaliser, in wrapping int64 arithmetic)."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right without dragging the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
