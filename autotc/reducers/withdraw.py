"""VTW: all visual tokens leave at one depth, and the rule that finds the depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Source, TokenView


def _published(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    depth = (15, 32) if anatomy.decoder.layers < 40 else (20, 40)
    return (PresetStage("decoder", 0.0, depth),)


@dataclass(frozen=True)
class Withdraw(Reducer):
    """Drop every visual token; later layers work on the text alone.

    Source: Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference (VTW),
        arXiv 2405.05803.
    Differs: text keeps its positions (the authors' default; their other mode renumbers it); `depth` raises
        with a message where the authors' code fails on an empty list.
    Cost: none; `depth` takes one prefill a candidate layer and calibration example.
    """

    name: ClassVar[str] = "withdraw"
    title: ClassVar[str] = "VTW (withdrawal)"
    source: ClassVar[Source] = Source(
        "Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference",
        "2405.05803",
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    withdraws: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("vtw", _published, note="no visual token from layer 15 of 32 (7B) or 20 of 40 (13B) on"),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        return select(torch.zeros_like(view.valid))


def divergence(full: Tensor, withdrawn: Tensor) -> Tensor:
    """Return KL(withdrawn || full) of next-token distributions, in float32.

    Args:
        full: (S, V) logits of the last prompt token, all tokens kept.
        withdrawn: (S, C, V) the same when visual tokens leave at each of C candidate layers.

    Returns:
        (S, C) in nats.
    """
    left, right = withdrawn.float().log_softmax(-1), full.float().log_softmax(-1)
    return (left.exp() * (left - right[:, None])).sum(-1)


def depth(full: Tensor, withdrawn: Tensor, eta: float = 0.003, first: int = 5) -> int:
    """Return the first layer at which withdrawal changes the next token by at most eta on average.

    Args:
        full: (S, V) logits, see `divergence`.
        withdrawn: (S, C, V) for the candidate layers first, first + 1, ...
        eta: published 0.003 for LLaVA-1.5-7B, 0.0005 for 13B, 0.0001 for LLaVA-1.6-7B.
        first: the first candidate layer.

    Raises:
        ValueError: no candidate is below eta; the message gives the smallest divergence.
    """
    mean = divergence(full, withdrawn).mean(0)
    below = (mean <= eta).nonzero()
    if not len(below):
        smallest = float(mean.min())
        raise ValueError(f"no layer from {first} on stays below eta={eta}: the smallest is {smallest:.3g}")
    return first + int(below[0])
