"""PruMerge and PruMerge+: keep the outliers of CLS attention and add their look-alikes to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, pool
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, heads, ranking


def outlier_ratio(attention: Tensor) -> float:
    """Return the share of tokens (N,) more than 1.5 quartile ranges above the third quartile."""
    low, high = torch.quantile(attention, torch.tensor([0.25, 0.75], device=attention.device)).tolist()
    return float((attention > high + 1.5 * (high - low)).sum()) / len(attention)


@dataclass(frozen=True)
class PruMerge(Reducer):
    """Keep tokens of outlying CLS attention, add to each its nearest tokens, and sum up the dropped ones.

    A kept token gains its nearest neighbours (cosine of keys), each weighted by its attention; one more token
    is the sum of all dropped ones, weighted likewise. With `plus` evenly spaced tokens are kept as well.

    Source: LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models, arXiv 2403.15388.
    Differs: the count is the method's own, with the budget as its cap, the sum of the dropped tokens included; where
        all are kept there is none. No outlier at all keeps one token, where the authors divide by zero. Tokens
        stay in the image's order, the sum at its heaviest source. Evenly spaced tokens are not repeated. A tower
        without a CLS row is read by received attention. Ties go to the lowest index.
    Cost: 2 K N D for the neighbours, D the tower's width.
    """

    name: ClassVar[str] = "prumerge"
    title: ClassVar[str] = "LLaVA-PruMerge"
    source: ClassVar[Source] = Source(
        "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", "2403.15388"
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("final_cls_attention", "final_keys")
    instead: ClassVar[Mapping[str, str]] = {"final_cls_attention": "received_attention"}
    adaptive: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "prumerge-plus",
            lambda anatomy: (PresetStage("projector", 144 / 576, params=(("plus", True),)),),
            "compact",
            "outliers and evenly spaced tokens, about 144 of 576",
        ),
        Preset(
            "prumerge",
            lambda anatomy: (PresetStage("projector", 32 / 576),),
            "compact",
            "outliers only, about 32 of 576",
        ),
    )

    plus: bool = param(False, help="Keep evenly spaced tokens as well.")
    outliers: bool = param(True, help="Count by the attention's outliers; else by `ratio`.")
    ratio: float = param(0.125, low=0.01, high=1.0, help="Share kept where outliers don't decide.")
    neighbours: int = param(32, low=1, high=128, log=True, help="Tokens added to each kept one.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        if "final_cls_attention" in view.signals:
            attention = view.signals["final_cls_attention"].float()
        else:
            attention = heads(view.signals["received_attention"])
        rows, places = [], []
        for row, cap in enumerate(budgets(view, budget).tolist()):
            n = int(view.counts[row])
            matrix, anchors = self._matrix(attention[row, :n], view.signals["final_keys"][row, :n], cap)
            rows.append(torch.nn.functional.pad(matrix, (0, view.x.shape[1] - n)))
            places.append(anchors)
        most = max(len(p) for p in places)
        real = torch.stack([torch.arange(most, device=view.x.device) < len(p) for p in places])
        padded = [torch.nn.functional.pad(m, (0, 0, 0, most - len(m))) for m in rows]
        stands = [torch.nn.functional.pad(p, (0, most - len(p))) for p in places]
        return pool(torch.stack(padded), torch.stack(stands), real)

    def choose(self, attention: Tensor) -> Tensor:
        """Return the tokens (M,) that one image keeps: by falling attention, then spaced ones."""
        n = len(attention)
        ratio = outlier_ratio(attention) if self.outliers else self.ratio
        ratio = max(ratio, 1 / n)
        order = ranking(attention[None])[0]
        top = order[: max(int(n * ratio), 1)]
        if not self.plus:
            return top
        spaced = torch.arange(0, n - 1, max(int(int(1 / ratio) / 3), 1), device=top.device)
        return torch.cat((top, spaced[~torch.isin(spaced, top)]))

    def _matrix(self, attention: Tensor, keys: Tensor, cap: int) -> tuple[Tensor, Tensor]:
        """Return the rows (K, N) of one image and where they stand (K,)."""
        n = len(attention)
        if cap == 0:
            return attention.new_zeros(0, n), torch.arange(0, device=attention.device)
        kept = self.choose(attention)
        everything = len(kept) >= n and cap >= n
        kept = kept if everything else kept[: max(cap - 1, 1)]
        itself = torch.arange(len(kept), device=kept.device)
        alike = cosine(keys[kept][None], keys[None])[0]
        alike[itself, kept] = -torch.inf
        near = ranking(alike)[:, : min(self.neighbours, n - 1)]
        matrix = attention.new_zeros(len(kept), n).scatter_(1, near, attention[near])
        matrix[itself, kept] = 1.0
        dropped = attention.clone()
        dropped[kept] = 0
        if everything or cap == 1 or len(kept) == n:
            return matrix, kept
        rest = torch.ones(n, dtype=torch.bool, device=kept.device)
        rest[kept] = False
        heaviest = ranking(attention[None], rest[None])[0, :1]
        return torch.cat((matrix, dropped[None])), torch.cat((kept, heaviest))

    def flops(self, shape: Shape) -> float:
        width = shape.heads * shape.head_dim
        return 2.0 * shape.n * width + 2.0 * shape.k * shape.n * width
