"""ToMe: merge the most similar neighbouring tokens inside the vision tower, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.anatomy import Anatomy
from autotc.assignment import Assignment, merge
from autotc.kernels import bipartite_match
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import fold

PATCHES = 576  # of the model and the budgets that the comparisons print: LLaVA-1.5, 192 tokens kept
KEPT = 192


def parse_r(blocks: int, r: int, inflect: float = 0.0) -> tuple[int, ...]:
    """Return how many tokens each block merges.

    Args:
        blocks: how many blocks merge.
        r: merges a block on average.
        inflect: in [-1, 1]; 0 the same everywhere, -1 falling from 2 r to 0, 1 rising.
    """
    low = int(r * (1.0 - inflect))
    step = (2 * r - low - low) / max(blocks - 1, 1)
    return tuple(int(low + step * i) for i in range(blocks))


def _schedule(places: list[tuple[int, int]], inflect: float) -> tuple[PresetStage, ...]:
    """Spread the merges from 576 to 192 tokens over the places; the last place settles what rounding left."""
    alive, stages = PATCHES, []
    removed = parse_r(len(places), (PATCHES - KEPT) // len(places), inflect)
    for layer, r in zip(places[:-1], removed[:-1], strict=True):
        alive -= r
        stages.append(PresetStage("vision", keep=alive / PATCHES, layer=layer))
    return (*stages, PresetStage("vision", keep=KEPT / PATCHES, layer=places[-1]))


def _every_block(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    depth = anatomy.vision.blocks
    return _schedule([(j, depth) for j in range(1, anatomy.vision.blocks_used)], 0.0)


def _falling(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    depth = anatomy.vision.blocks
    return _schedule([(j, depth) for j in range(1, anatomy.vision.blocks_used)], -1.0)


def _quarters(anatomy: Anatomy) -> tuple[PresetStage, ...]:
    return _schedule([(1, 4), (2, 4), (3, 4)], 0.0)


@dataclass(frozen=True)
class ToMe(Reducer):
    """Send the best matched even tokens to their most similar odd token (by mean key) and average them.

    Means are weighted by how many patches a token stands for, and later blocks add the log of that size to
    their logits (proportional attention).

    Source: Token Merging: Your ViT But Faster, arXiv 2210.09461.
    Differs: the block is told how many tokens come out, not how many are merged. One matching halves the
        tokens at most; where the budget asks for more, matchings are repeated on the merged keys (as FOLDER
        does) until it is met. Output stays in the image's order (a token stands at its odd place), not even
        tokens and then odd, so the next block pairs other tokens than the authors' code would. Block 0 never
        merges: a policy's depths start at 1. The authors' strided variant (`stride` above 2) merges all that
        it can and drops the tokens behind the last receiver; here they may merge like the others. Ties go to
        the lowest index.
    Cost: 2 (N / 2)^2 hd a matching; with a stride s 2 (s - 1) (N / s)^2 hd.
    """

    name: ClassVar[str] = "tome"
    title: ClassVar[str] = "ToMe"
    source: ClassVar[Source] = Source("Token Merging: Your ViT But Faster", "2210.09461")
    sites: ClassVar[tuple[str, ...]] = ("vision",)
    needs: ClassVar[tuple[str, ...]] = ("block_keys",)
    size_bias: ClassVar[bool] = True
    where: ClassVar[Literal["block", "after_attention"]] = "after_attention"
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("tome", _every_block, note="the same number merged in every block, 192 of 576 left"),
        Preset("tome-falling", _falling, note="merges fall from 2 r in the first block to none in the last"),
        Preset("tome-quarters", _quarters, note="merges at a quarter, half and three quarters of the tower"),
    )

    stride: int = param(2, low=2, high=8, help="One token in so many receives, the others may be merged.")

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        def match(metric: Tensor, valid: Tensor, away: Tensor) -> Tensor:
            into = bipartite_match(metric, away, valid, view.prefix, self.stride)
            # too few tokens for a receiver at this stride
            stuck = (away > 0) & (into == torch.arange(into.shape[1], device=into.device)).all(1)
            if not bool(stuck.any()):
                return into
            return torch.where(stuck[:, None], bipartite_match(metric, away, valid, view.prefix), into)

        keys = view.signals["block_keys"]
        return merge(fold(keys, view.size, budgets(view, budget), view.valid, match))

    def flops(self, shape: Shape) -> float:
        total, n = 0.0, shape.n
        while n > max(shape.k, 1):
            receivers = -(-n // self.stride)
            total += 2.0 * receivers * (n - receivers) * shape.head_dim
            n = max(shape.k, receivers, 1)
        return total
