"""FlowCut: cut little by little through the tower, by a running score of attention and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import heads, keep_top

PATCHES, BLOCKS = 576, 24
ENTROPY = 0.9  # of CLS attention, against the most it could be; the presets' assumption


def leaving(count: int, target: int, blocks: int, entropy: float) -> int:
    """Return how many of `count` tokens the authors' rule takes away in a block.

    Args:
        count: tokens there are.
        target: tokens to leave in the end.
        blocks: blocks that follow before the last one to cut; none takes all at once.
        entropy: of CLS attention over the tokens, as a share of the largest possible.
    """
    if blocks == 0:
        return max(count - target, 0)
    return max(min(round((count - target) / math.sqrt(blocks) * (1 - entropy**2)), count - target), 0)


def _published(target: int) -> Preset:
    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        out, count = [], PATCHES
        for layer in range(2, BLOCKS - 1, 2):  # behind blocks 1, 3, ... 21
            count -= leaving(count, target, BLOCKS - 2 - layer, ENTROPY)
            out.append(PresetStage("vision", count / PATCHES, (layer, BLOCKS)))
        return tuple(out)

    name = "flowcut" if target == 192 else f"flowcut-{target}"
    return Preset(name, stages, "compact", f"eleven cuts in the tower, to {target} of 576 tokens")


@dataclass(frozen=True)
class FlowCut(Reducer):
    """Keep the tokens that CLS attends to, that are like it in value, and whose value is large, over many blocks.

    Signal: shares of CLS attention and of the softmax of CLS value times values, times the length (L1) of the
    mean value; half of it and half of the score of the blocks before. Selector: top-k.

    Source: FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models, arXiv
        2505.19536.
    Differs: how many tokens leave is the budget's; the authors decide by the entropy of CLS attention, and the
        presets hold what their rule gives at an entropy of 0.9 of the largest, which is our assumption (the
        last count is theirs). The score begins six blocks before the first cut, where what is older weighs
        less than 2 %. On a tower without a CLS row it is received attention times the value's length, as in
        their port to Qwen2-VL, but whole 2x2 groups leave. The step in the language model is left out. Ties
        go to the lowest index.
    Cost: one row of products of values a block, and the length of the values.
    """

    name: ClassVar[str] = "flowcut"
    title: ClassVar[str] = "FlowCut"
    source: ClassVar[Source] = Source(
        "FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models",
        "2505.19536",
    )
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_cls_attention", "block_value_attention", "block_values")
    instead: ClassVar[Mapping[str, str]] = {
        "block_cls_attention": "block_received_attention",
        "block_value_attention": "block_received_attention",
    }
    stateful: ClassVar[bool] = True
    observes: ClassVar[int] = 6
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (_published(192), _published(128), _published(64))

    past: float = param(0.5, low=0.0, high=0.9, help="Weight of the score of the blocks before.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        return keep_top(self._flow(view), budgets(view, budget), view.valid)

    def observe(self, view: TokenView) -> None:
        self._flow(view)

    def _flow(self, view: TokenView) -> Tensor:
        """Return the running score (B, N) with this block's, and keep it by original token."""
        score = self.score(view)
        place = torch.where(view.valid, view.source, 0)
        if "flow" in view.state:
            score = self.past * view.state["flow"].gather(1, place) + (1 - self.past) * score
        room = max(t * h * w for t, h, w in view.grids)
        kept = score.new_zeros(len(score), room + 1)  # one more place, for padding
        view.state["flow"] = kept.scatter(1, torch.where(view.valid, view.source, room), score)
        return score

    def score(self, view: TokenView) -> Tensor:
        """Return what this block alone says of each token, (B, N)."""
        cls = "block_cls_attention" in view.signals
        shares = _share(
            heads(view.signals["block_cls_attention" if cls else "block_received_attention"]), view
        )
        if cls and "block_value_attention" in view.signals:
            shares = shares + _share(heads(view.signals["block_value_attention"]), view)
        return shares * heads(view.signals["block_values"]).abs().sum(-1)

    def flops(self, shape: Shape) -> float:
        return shape.n * shape.heads * (3.0 * shape.head_dim + 2)


def _share(attention: Tensor, view: TokenView) -> Tensor:
    """Divide attention (B, N) by its sum over the image's tokens."""
    real = attention.masked_fill(~view.valid, 0)
    return real / real.sum(1, keepdim=True).clamp_min(torch.finfo(real.dtype).tiny)
