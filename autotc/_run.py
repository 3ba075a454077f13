"""One prefill and what follows it: state, rotary positions, and the calls that are refused by name."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from autotc._layout import Layout, move
from autotc._signals import Before, Tapped
from autotc._stages import Ledger
from autotc.assignment import Assignment
from autotc.errors import UnsupportedError

ATTACHED = "_autotc_compression"  # the attribute of a model that has a policy


@dataclass
class Run:
    """One prefill, from the prompt to the cache it filled.

    Args:
        input_ids: (B, L) the prompt.
        prompt: the layout of the whole prompt.
        entry: the layout that enters the language model.
        current: the layout of the layer that runs now.
        ledger: decisions and trace, those of the vision tower included.
        embeds: (B, L, D) as they were before the projector's cut.
        three_rows: whether rotary positions have three rows (M-RoPE).
        next: (B,) the original position of the first token after the prompt.
        images: the tower's image of each image row.
        layouts: the layout each layer saw.
        taps: what attention layers showed.
        before_layers: what layers did that a later cut looks back at.
        cache: the cache that was filled, if any.
        deep: DeepStack: what is added behind the first layers, (B, S, D) each for the rows of the layer, zero at text.
        before: tokens generated before the call that runs now.
        prefilling: whether the prompt runs now, or tokens after it.
        calls: tokens of the latest call without a cache.
    """

    input_ids: Tensor
    prompt: Layout
    entry: Layout
    current: Layout
    ledger: Ledger
    embeds: Tensor
    three_rows: bool
    next: Tensor
    images: Tensor
    layouts: dict[int, Layout] = field(default_factory=dict)
    taps: dict[int, Tapped] = field(default_factory=dict)
    before_layers: dict[int, Before] = field(default_factory=dict)
    ropes: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    cache: weakref.ref[Any] | None = None
    deep: list[Tensor] = field(default_factory=list)
    before: int = 0
    prefilling: bool = True
    calls: int = 0

    def moved(
        self,
        sequence: Tensor,
        layout: Layout,
        assignment: Assignment,
        after: Layout,
        index: Tensor,
        layer: int = 0,
    ) -> Tensor:
        """Return a sequence after `shorten`; what is still to be added behind `layer` and later ones moves along, a
        merged token gets the same mixture of it.
        """
        for level in range(layer, len(self.deep)):
            self.deep[level] = move(self.deep[level], layout, assignment, after, index)
        return move(sequence, layout, assignment, after, index)

    @property
    def shortened(self) -> bool:
        """Whether any layer sees fewer tokens than the prompt has."""
        return self.current is not self.prompt


def new_run(
    input_ids: Tensor,
    layout: Layout,
    embeds: Tensor,
    positions: Tensor | None,
    ledger: Ledger,
    images: Tensor,
) -> Run:
    """Return a run at its start; positions as the language model was given them, (L), (3 or 4, B, L) or
    None.
    """
    if positions is None:
        first = torch.full((len(embeds),), embeds.shape[1], device=embeds.device)
    else:
        rotary = positions[-3:] if positions.ndim == 3 else positions[None]
        rotary = rotary.expand(-1, len(embeds), -1).masked_fill(~layout.valid, -1)
        first = rotary.amax((0, 2)) + 1
    layout = replace(layout, next=first)
    three = positions is not None and positions.ndim == 3
    return Run(input_ids, layout, layout, layout, ledger, embeds, three, first, images.to(embeds.device))


def take_deep(
    names: tuple[str, str] | None, kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Tensor]]:
    """Take DeepStack's features out of the language model's arguments, one sequence (B, L, D) a level, zero at text.

    Args:
        names: `ModelAdapter.deep_arguments`.
        kwargs: the arguments.
    """
    if names is None or not kwargs.get(names[1]):
        return dict(kwargs), []
    visual, embeds = kwargs[names[0]], kwargs["inputs_embeds"]
    levels = []
    for features in kwargs[names[1]]:
        levels.append(torch.zeros_like(embeds))
        levels[-1][visual] = features.to(embeds)
    return {**kwargs, **dict.fromkeys(names)}, levels


def gather_positions(positions: Tensor | None, layout: Layout) -> Tensor:
    """Return the positions of a layout's rows, from those of the whole prompt or by the layout's own
    count.
    """
    if layout.positions is not None:
        return layout.positions
    index = layout.index
    if positions is None:
        return index
    if positions.ndim == 2:
        return positions.expand(len(index), -1).gather(1, index)
    return positions.expand(-1, len(index), -1).gather(2, index.expand(len(positions), *index.shape))


def same_prompt(run: Run, ids: Tensor) -> Mapping[int, Assignment | None] | None:
    """Return the decisions to repeat when a call without a cache is the previous one with one more token."""
    length = run.input_ids.shape[1]
    longer = run.cache is None and ids.shape == (len(run.input_ids), run.calls + 1)
    return run.ledger.decisions if longer and torch.equal(ids[:, :length], run.input_ids) else None


def beam_order(placeholders: Tensor, tokens: list[int]) -> list[int]:
    """Return the tower's image of each image in the prompts: beams repeat a prompt's images as a group."""
    found, total = int(placeholders.sum()), sum(tokens)
    if total == 0 or found % total or len(placeholders) % (found // total):
        raise UnsupportedError(
            f"compress: {found} image tokens in the prompts for {total} image features; "
            "pass pixel_values of exactly the prompts' images"
        )
    beams = found // total
    if beams == 1:
        return list(range(len(tokens)))
    order: list[int] = []
    first = 0
    for wanted in placeholders[::beams].sum(1).tolist():
        stop, have = first, 0
        while have < wanted:
            have, stop = have + tokens[stop], stop + 1
        order += list(range(first, stop)) * beams
        first = stop
    return order


def check_call(call: Mapping[str, Any]) -> None:
    """Refuse by name what is not tested."""
    mask, cache = call.get("attention_mask"), call.get("past_key_values")
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise UnsupportedError("compress: attention_mask must have the shape (batch, tokens)")
    if (
        call.get("pixel_values_videos") is not None
        or (call.get("mm_encoder_outputs") or {}).get("video") is not None
    ):
        raise UnsupportedError("compress: videos are not supported yet")
    if cache is not None:
        check_cache(cache)


def check_cache(cache: Any) -> None:
    """Refuse every cache but a plain DynamicCache: static, quantised, offloaded and sliding ones are not
    tested.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    kinds = {type(layer) for layer in getattr(cache, "layers", [])} - {DynamicLayer}
    if type(cache) is not DynamicCache or kinds or getattr(cache, "offloading", False):
        name = type(cache).__name__ + "".join(f" with {kind.__name__}" for kind in kinds)
        raise UnsupportedError(f"compress: cache {name} is not supported; use DynamicCache (the default)")
