"""DART: keep what is least like a few pivots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, ranking, top_mask


@dataclass(frozen=True)
class Dart(Reducer):
    """Keep visual pivots (largest keys) and, for every pivot, the tokens that resemble it least.

    Signals: key norms of the layer before the cut (pivots), cosines of hidden states under the model's final
    norm (duplication); selector: a share of the tokens least like each pivot in turn, out of a shrinking
    pool.

    Source: Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More,
        arXiv 2502.11494.
    Differs: the authors keep p_i + (p_i + p_t) m tokens with m from a nominal budget (132 for "128"); here
        m is fitted to the budget, and what does not divide goes to the first pivots visited, one token
        each, so that the budget is met. The visiting order, which in the authors' code is that of a Python
        set of sequence positions, is kept with `order="set"`; positions count the image from `first`, and
        the text from its end. Images with fewer tokens than visual pivots keep the pivots of largest norm.
    Cost: key norms, and one cosine row a pivot.
    """

    name: ClassVar[str] = "dart"
    title: ClassVar[str] = "DART"
    source: ClassVar[Source] = Source(
        "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
        "2502.11494",
    )
    sites: ClassVar[tuple[str, ...]] = ("decoder",)
    needs: ClassVar[tuple[str, ...]] = ("keys", "text_keys", "normed", "text_normed")
    query_aware: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset(
            "dart",
            lambda anatomy: (PresetStage("decoder", 132 / 576, (2, anatomy.decoder.layers)),),
            note="132 of 576 tokens go on from layer 2 (the authors' nominal 128)",
        ),
    )

    pivot_image: int = param(4, low=1, high=32, help="Visual pivots.")
    pivot_text: int = param(4, low=0, high=32, help="Text pivots.")
    order: str = param(
        "set",
        choices=("set", "norm"),
        search=False,
        help="Visit pivots in the order of a Python set of sequence positions, or by key norm.",
    )
    first: int = param(
        35,
        low=0,
        high=2**31,
        search=False,
        help="Sequence position of the first visual token, for order='set'.",
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        wanted = budgets(view, budget)
        normed, text_normed = view.signals["normed"], view.signals["text_normed"]
        b, n = view.valid.shape
        words = view.text_valid
        if words is None:
            words = torch.ones(text_normed.shape[:2], dtype=torch.bool, device=view.x.device)
        image_order = ranking(key_norms(view.signals["keys"]), view.valid)
        text_order = ranking(key_norms(view.signals["text_keys"]), words)
        keep = torch.zeros(b, n, dtype=torch.bool, device=view.x.device)
        for row in range(b):
            count = int(wanted[row])
            images = image_order[row, : min(self.pivot_image, count)]
            texts = text_order[row, : min(self.pivot_text, int(words[row].sum()))]
            keep[row, images] = True
            visited = self._visit(images.tolist(), texts.tolist(), int(view.valid[row].sum()))
            pivots = torch.cat((normed[row, images], text_normed[row, texts]))[visited]
            alike = cosine(pivots[None], normed[row : row + 1])[0]
            share, rest = divmod(count - len(images), max(len(visited), 1))
            for turn in range(len(visited)):
                pool = view.valid[row] & ~keep[row]
                keep[row] |= top_mask(-alike[turn : turn + 1], share + (turn < rest), pool[None])[0]
        return select(keep)

    def _visit(self, images: list[int], texts: list[int], n: int) -> list[int]:
        """Return the order in which pivots are visited, as places in `images` followed by `texts`."""
        positions = [self.first + i for i in images] + [self.first + n + t for t in texts]
        order = list(set(positions)) if self.order == "set" else positions
        return [positions.index(p) for p in order]

    def flops(self, shape: Shape) -> float:
        pivots = self.pivot_image + self.pivot_text
        norms = (shape.n + shape.text) * (shape.heads * shape.head_dim + 2 * shape.d)
        return norms + 2 * pivots * shape.n * shape.d


def key_norms(keys: Tensor) -> Tensor:
    """Return the L1 norms (B, N) of keys (B, G, N, hd) concatenated over heads."""
    return keys.float().abs().sum((1, 3))
