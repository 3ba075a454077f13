"""MoB: some tokens for the prompt, the others spread over what is left of the image."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import ClassVar, Literal

import torch
from torch import Tensor

from autotc.assignment import Assignment, select
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Shape, Source, TokenView, budgets, param
from autotc.scoring import cosine, spread, top_mask


def _published(count: int, prompt: float) -> Preset:
    return Preset(
        "mob" if count == 192 else f"mob-{count}",
        lambda anatomy: (PresetStage("projector", count / 576, params=(("prompt", prompt),)),),
        "compact",
        f"{count} of 576 tokens, {round(prompt * count)} of them for the prompt",
    )


@dataclass(frozen=True)
class MoB(Reducer):
    """Keep the tokens nearest to the prompt's, then those farthest from all that are kept (max-min).

    Each text token proposes its nearest visual tokens; the proposals of highest similarity stay.

    Source: Why 1 + 1 < 1 in Visual Token Pruning: Beyond Naïve Integration via Multi-Objective Balanced
        Covering, arXiv 2505.10118.
    Differs: written from the paper's pseudocode, the authors' repository has no code. Before the language
        model instead of in its layer 2. A token proposed twice counts with its highest similarity (the paper
        doesn't say). Too few proposals leave their places to the spreading. The published numbers of prompt
        tokens fall while the budget rises, and would fill the smallest one: they are taken in reverse (32,
        48 and 64 of 64, 128 and 192), which fits the proposals printed beside them. The split that follows
        from measuring how strongly image and prompt are coupled is left to the parameters. Ties go to the
        lowest index.
    Cost: cosines of all tokens with the text and with one another, 2 N (T + N) D.
    """

    name: ClassVar[str] = "mob"
    title: ClassVar[str] = "MoB"
    source: ClassVar[Source] = Source(
        "Why 1 + 1 < 1 in Visual Token Pruning: Beyond Naïve Integration via Multi-Objective Balanced Covering",
        "2505.10118",
    )
    sites: ClassVar[tuple[str, ...]] = ("projector",)
    needs: ClassVar[tuple[str, ...]] = ("text_embeds",)
    query_aware: ClassVar[bool] = True
    relevance: ClassVar[Literal["clip", "embedding", "none"]] = "embedding"
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction"]] = "adapted"
    presets: ClassVar[tuple[Preset, ...]] = (
        _published(192, 1 / 3),
        _published(128, 3 / 8),
        _published(64, 1 / 2),
    )

    prompt: float = param(0.375, low=0.0, high=1.0, help="Share of the budget that goes by the prompt.")
    proposals: float = param(
        0.125, low=0.025, high=1.0, log=True, help="Tokens a text token proposes, of those for the prompt."
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        count = budgets(view, budget)
        wanted = [_rounded(self.prompt * k) for k in count.tolist()]
        each = [_rounded(self.proposals * k) for k in wanted]
        chosen = self._for_prompt(view, torch.tensor(wanted), torch.tensor(each))
        return select(spread(view.x, chosen, count, view.valid))

    def _for_prompt(self, view: TokenView, wanted: Tensor, each: Tensor) -> Tensor:
        """Mark as (B, N) bool the tokens for the prompt, at most `wanted` (B,) of `each` (B,) a text token."""
        text = view.signals["text_embeds"]
        b, t, _ = text.shape
        near = cosine(text, view.x)
        words = near.new_ones(b, t).bool() if view.text_valid is None else view.text_valid
        real = (words[..., None] & view.valid[:, None]).flatten(0, 1)
        best = top_mask(near.flatten(0, 1), each.repeat_interleave(t), real).view_as(near)
        score = near.masked_fill(~best, -torch.inf).amax(1) if t else near.new_zeros(view.valid.shape)
        return top_mask(score, wanted, best.any(1))

    def flops(self, shape: Shape) -> float:
        return 2.0 * shape.n * (shape.text + shape.n) * shape.d + shape.k * shape.n


def _rounded(count: float) -> int:
    """The nearest whole number, one at least where there is to be any."""
    return max(floor(count + 0.5), 1) if count > 0 else 0
