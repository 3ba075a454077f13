"""AIM's pruning: in the deeper layers, tokens leave that attention does not lead to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.policy import map_depth
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets
from autotc.scoring import keep_top

STEPS = 5


def _linear(anatomy: Anatomy, entering: float) -> tuple[PresetStage, ...]:
    """An eighth of what enters the model leaves behind each of eight layers."""
    layers = anatomy.decoder.layers
    depth, start = (28, 14) if layers <= 28 else (32, 13)  # the authors' schedules of Qwen2-7B and Vicuna-7B
    # where depths fall together the later count holds
    keeps = {map_depth(start + 1 + i, depth, layers): entering * (7 - i) / 8 for i in range(8)}
    return tuple(PresetStage("decoder", keep, (layer, layers)) for layer, keep in keeps.items())


def _whole(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return (PresetStage("projector", 0.125, reducer="aim"), *_linear(anatomy, 0.125))


@dataclass(frozen=True)
class AimPrune(Reducer):
    """Keep the tokens where a walk along the attention ends up, at a sharp temperature.

    Signal: five steps along the layer's attention from a uniform start over the prompt (PageRank without
    damping), root mean square over heads; selector: top-k.

    Source: AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning, arXiv 2412.03248.
    Differs: tokens that leave are removed (the authors hide them from later layers and go on computing them,
        and hidden tokens still start a share of the walk). Equal scores go to the lowest index.
    Cost: the attention map of all tokens, and five products of a vector with it.
    """

    name: ClassVar[str] = "aim_prune"
    title: ClassVar[str] = "AIM (pruning)"
    source: ClassVar[Source] = Source(
        "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning", "2412.03248"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("flow_attention",)
    query_aware: ClassVar[bool] = True
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "aim-whole",
            _whole,
            note="merged to an eighth before the language model, then eight cuts to none in its middle",
        ),
        Preset("aim-prune", lambda anatomy: _linear(anatomy, 1.0), note="only the eight cuts"),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        return keep_top(importance(view.signals["flow_attention"]), budgets(view, budget), view.valid)

    def flops(self, shape: Shape) -> float:
        pairs = (shape.n + shape.text) ** 2 * shape.heads
        return pairs * (2 * shape.head_dim + 1 + 2 * STEPS)


def importance(flow: Tensor) -> Tensor:
    """Return the root mean square over heads (B, N) of where the walk ends up, (B, H, N)."""
    return flow.float().square().mean(1).sqrt()
