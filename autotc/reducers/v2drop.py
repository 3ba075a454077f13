"""V2Drop: tokens that a layer hardly changes leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets
from autotc.scoring import keep_top


def _preset(name: str, keeps: tuple[float, ...], note: str) -> Preset:
    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        # the authors' depths of Qwen2-VL and of LLaVA-1.5
        depth, layers = (28, (3, 16, 22)) if anatomy.decoder.layers <= 28 else (32, (3, 17, 22))
        return tuple(
            PresetStage("decoder", keep, (layer, depth)) for layer, keep in zip(layers, keeps, strict=True)
        )

    return Preset(name, stages, note=note)


@dataclass(frozen=True)
class V2Drop(Reducer):
    """Keep the tokens whose hidden state changes most over the layer before the cut.

    Signal: length of the difference of the states that enter two consecutive layers; selector: top-k.

    Source: Variation-aware Vision Token Dropping for Faster Large Vision-Language Models, arXiv 2509.01552.
    Differs: any number of tokens is cut (the authors' LLaVA code leaves sequences of at most 576 alone);
        equal changes go to the lowest index.
    Cost: one difference and its length a token.
    """

    name: ClassVar[str] = "v2drop"
    title: ClassVar[str] = "V2Drop"
    source: ClassVar[Source] = Source(
        "Variation-aware Vision Token Dropping for Faster Large Vision-Language Models", "2509.01552"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("hidden_before",)
    presets: ClassVar[tuple[Preset, ...]] = (
        _preset("v2drop", (0.5, 0.25, 1 / 576), "288/144/1 of 576 tokens from layers 3/17/22 of 32"),
        _preset("v2drop-qwen2-vl", (0.25, 0.0125, 1 / 576), "25 %, 1.25 % and one token from 3/16/22 of 28"),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        change = (view.x.float() - view.signals["hidden_before"].float()).norm(dim=-1)
        return keep_top(change, budgets(view, budget), view.valid)

    def flops(self, shape: Shape) -> float:
        return 3.0 * shape.n * shape.d
