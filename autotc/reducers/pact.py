"""PACT: unimportant tokens leave, and what is near in keys is averaged, before an early layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import bounded_peaks, cosine, heads, nearest, top_mask

HALVINGS = 12
WIDEST = 2.1  # cosine distances end at 2: one cluster


def _preset(name: str, alive: float, keep: float, cutoff: float, note: str) -> Preset:
    def stages(anatomy: Anatomy) -> tuple[PresetStage, ...]:
        # the authors cut before layer 4 of every model
        params = (("keep", keep), ("cutoff", cutoff))
        return (PresetStage("decoder", alive, (4, anatomy.decoder.layers), params),)

    return Preset(name, stages, note=note)


@dataclass(frozen=True)
class Pact(Reducer):
    """Drop tokens that the mean query passes over, cluster the rest by their keys within a fixed distance.

    Signals: mean query of the prompt up to the image's end against its keys without rotary positions, times
    the state's length (EUTI); keys of the layer after rotary positions. Selector: top-k; merger: distance
    bounded density peaks (DBDPC), plain means, with dropped tokens near a centre taken back in.

    Source: PACT: Pruning and Clustering-Based Token Reduction for Faster Visual Language Models,
        arXiv 2504.08966.
    Differs: the logarithm of a cluster's size is not added to later attention (the authors' proportional
        attention): the engine adds it in the tower only. The budget caps the clusters: where the cutoff leaves
        more, the smallest wider one found by halving is taken. Ties go to the lowest index.
    Cost: query and key projections of all tokens, cosines of all keys.
    """

    name: ClassVar[str] = "pact"
    title: ClassVar[str] = "PACT"
    source: ClassVar[Source] = Source(
        "PACT: Pruning and Clustering-Based Token Reduction for Faster Visual Language Models", "2504.08966"
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("prefix_attention", "next_keys")
    adaptive: ClassVar[bool] = True
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        _preset(
            "pact",
            1 - 0.713,
            0.55,
            0.21,
            "55 % of the tokens clustered at 0.21 before layer 4, 28.7 % left (LLaVA-OneVision-7B)",
        ),
        _preset(
            "pact-qwen2-vl", 0.8, 0.8, 0.1, "80 % of the tokens clustered at 0.1 before layer 4 (Qwen2-VL-7B)"
        ),
    )

    keep: float = param(0.55, low=0.01, high=1.0, help="Share of the tokens that is clustered.")
    cutoff: float = param(0.21, low=0.0, high=2.0, help="Cosine distance that a cluster's centre covers.")
    recover: float = param(1.5, low=0.0, high=4.0, help="Cutoffs from which a dropped token comes back.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        wanted = budgets(view, budget)
        score = importance(view.signals["prefix_attention"], view.x)
        first = torch.tensor([max(1, int(n * self.keep)) for n in view.counts.tolist()])
        kept = top_mask(score, first.to(wanted.device) * (wanted > 0), view.valid)
        distance = key_distance(view.signals["next_keys"])
        cutoff = self._cutoff(distance, kept, wanted)
        centres = bounded_peaks(distance, cutoff, kept)
        into = nearest(-distance, centres)
        gap = distance.gather(2, into[..., None])[..., 0]
        joins = kept | (view.valid & centres.any(1, keepdim=True) & (gap <= self.recover * cutoff[:, None]))
        return merge(torch.where(joins, into, -1), normalise="count")

    def _cutoff(self, distance: Tensor, kept: Tensor, wanted: Tensor) -> Tensor:
        """Return (B,) the cutoff, or a wider one where that leaves more clusters than wanted."""
        cutoff = torch.full((len(kept),), self.cutoff, device=kept.device)
        if bool((bounded_peaks(distance, cutoff, kept).sum(1) <= wanted).all()):
            return cutoff
        fits = bounded_peaks(distance, cutoff, kept).sum(1) <= wanted
        low, high = cutoff, torch.where(fits, cutoff, WIDEST)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = bounded_peaks(distance, middle, kept).sum(1) <= wanted
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        return high

    def flops(self, shape: Shape) -> float:
        width = shape.heads * shape.head_dim
        projected = 2 * (shape.n + shape.text) * shape.d * (width + shape.key_width)
        row = shape.n * shape.heads * (2 * shape.head_dim + 1) + 3 * shape.n * shape.d
        return projected + row + 2 * shape.n**2 * shape.key_width + (HALVINGS + 2) * shape.n**2


def importance(attention: Tensor, x: Tensor) -> Tensor:
    """Return EUTI's score (B, N): mean over heads of attention (B, H, N) times the length of x (B, N, D)."""
    return heads(attention) * x.float().norm(dim=-1)


def key_distance(keys: Tensor) -> Tensor:
    """Return the cosine distances (B, N, N) of keys (B, G, N, hd) concatenated over heads, never below 0."""
    distance = (1 - cosine(keys.transpose(1, 2).flatten(2))).clamp_min(0).nan_to_num(2)
    diagonal: Tensor = distance.diagonal(dim1=1, dim2=2)
    diagonal.zero_()
    return distance
