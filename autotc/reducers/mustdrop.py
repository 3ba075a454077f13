"""MustDrop in the language model: drop what no text token looks at, but never the image's own key tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import heads, top_mask

LAYERS, DEPTH = (3, 7, 11, 15), 32  # cut behind layers 2, 6, 10 and 14
WINDOWS, FALL = 0.5, 0.8


def _published(count: int, mass: float, peak: float) -> Preset:
    """Caps under which the mean over the language model's layers is `count` of 576 tokens."""

    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        spans = [b - a for a, b in zip(LAYERS, (*LAYERS[1:], DEPTH), strict=True)]
        weight = sum(span * FALL**i for i, span in enumerate(spans))
        first = (DEPTH * count / 576 - LAYERS[0] * WINDOWS) / weight
        knobs = (("mass", mass), ("peak", peak))
        return (
            PresetStage("vision", WINDOWS, (1, 24), reducer="mustdrop_window"),
            *(
                PresetStage("decoder", min(first * FALL**i, WINDOWS), (layer, DEPTH), knobs)
                for i, layer in enumerate(LAYERS)
            ),
        )

    name = "mustdrop" if count == 192 else f"mustdrop-{count}"
    note = f"windows merged in the tower, then thresholds in four layers; at most {count} of 576 on average"
    return Preset(name, stages, "compact", note)


@dataclass(frozen=True)
class MustDrop(Reducer):
    """Keep the tokens of highest CLS attention for good, and of the others those that the text looks at.

    A token leaves where its share of the text's attention to the image is below one threshold and its
    strongest attention from a text token below another.

    Source: Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model (MustDrop),
        arXiv 2411.10803.
    Differs: the budget is a cap: past it key tokens come first, then those of most attention; one token always
        stays. The presets' caps are ours, as the authors' counts follow from thresholds alone: half of the
        tokens behind the windows, then a fifth less at each cut, so that the mean over the layers is the
        published count. Key tokens are chosen among those that enter the first stage. The later shrinking of
        the first layers' cache is left out. A tower without a CLS row is read by received attention. Ties go
        to the lowest index.
    Cost: the text's rows of attention.
    """

    name: ClassVar[str] = "mustdrop"
    title: ClassVar[str] = "MustDrop"
    source: ClassVar[Source] = Source(
        "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model", "2411.10803"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("text_attention", "cls_attention")
    instead: ClassVar[Mapping[str, str]] = {"cls_attention": "received_attention"}
    query_aware: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        _published(192, 0.001, 0.001),
        _published(128, 0.0012, 0.001),
        _published(64, 0.011, 0.01),
    )

    mass: float = param(
        0.001, low=0.0001, high=1.0, log=True, help="Share of the text's attention below which tokens may go."
    )
    peak: float = param(
        0.001, low=0.0001, high=1.0, log=True, help="Strongest attention below which tokens may go."
    )
    keys: float = param(0.08, low=0.0, high=0.5, help="Share of the tokens that never leave.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        count = budgets(view, budget)
        name = "cls_attention" if "cls_attention" in view.signals else "received_attention"
        shown = heads(view.signals[name])
        rows = heads(view.signals["text_attention"])
        said = rows.new_ones(rows.shape[:2]).bool() if view.text_valid is None else view.text_valid
        rows = rows.masked_fill(~(said[..., None] & view.valid[:, None]), 0)
        total, most = rows.sum(1), rows.amax(1) if rows.shape[1] else shown.new_zeros(shown.shape)
        kept = (total >= self.mass * total.sum(1, keepdim=True)) | (most >= self.peak)
        key = self._key_tokens(view, shown)
        first = top_mask(shown, count, key)
        rest = top_mask(total, count - first.sum(1), view.valid & kept & ~key)
        alone = top_mask(total, count.clamp_max(1), view.valid)
        chosen = first | rest
        return select(torch.where(chosen.any(1, keepdim=True), chosen, alone))

    def _key_tokens(self, view: TokenView, shown: Tensor) -> Tensor:
        """Mark as (B, N) bool the tokens that never leave, as the first stage chose them by `shown` (B, N)."""
        place = view.source.masked_fill(~view.valid, 0)
        if "keys" not in view.state:
            count = torch.tensor([ceil(self.keys * n) for n in view.counts.tolist()], device=shown.device)
            chosen = top_mask(shown, count, view.valid)
            room = max(t * h * w for t, h, w in view.grids)
            view.state["keys"] = chosen.new_zeros(len(chosen), room).scatter_reduce_(
                1, place, chosen, reduce="amax"
            )
        known: Tensor = view.state["keys"]
        return known.gather(1, place) & view.valid

    def flops(self, shape: Shape) -> float:
        return shape.text * shape.n * shape.heads * (2.0 * shape.head_dim + 2)
