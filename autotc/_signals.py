"""Signals of the language model: computed for the rows and tokens a reducer declared, nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autotc._layout import Layout
from autotc._tap import attention_rows, rotate

if TYPE_CHECKING:
    from autotc._tower import TowerRun


@dataclass(frozen=True)
class Tapped:
    """What an attention layer showed: queries of the last token and of the text, all keys.

    Args:
        last: (B, H, 1, hd) after rotary positions.
        text: (I, H, T, hd), text behind each image.
        keys: (B, G, S, hd) after rotary positions.
        scale: factor of the logits.
    """

    last: Tensor
    text: Tensor
    keys: Tensor
    scale: float

    @staticmethod
    def of(queries: Tensor, keys: Tensor, scale: float, layout: Layout) -> Tapped:
        """Pick the rows from all queries (B, H, S, hd)."""
        rows, _ = layout.text_rows()
        text = queries[layout.images.sample[:, None], :, rows].transpose(1, 2)
        last = queries[torch.arange(len(queries), device=queries.device), :, layout.last()][:, :, None]
        return Tapped(last, text, keys, scale)


def decoder_signals(
    needs: Iterable[str],
    layer: nn.Module,
    text: Any,
    hidden: Tensor,
    tapped: Tapped | None,
    layout: Layout,
    rope: tuple[Tensor, Tensor],
) -> dict[str, Tensor]:
    """Return the signals of a cut before a decoder layer.

    Args:
        needs: names of `autotc.reducer.SIGNALS`; others than the decoder's own are left out.
        layer: the layer that will see fewer tokens.
        text: the language model.
        hidden: (B, S, D) entering the layer.
        tapped: what the layer before showed.
        layout: of the layer before, which is that of `hidden`.
        rope: cos and sin (B, S, hd) of the rows.
    """
    needs, images = set(needs), layout.images
    out: dict[str, Tensor] = {}
    if needs & {"text_attention", "text_keys", "text_hidden", "text_normed"}:
        rows, real = layout.text_rows()
        sample = images.sample[:, None]
    if tapped is not None and "last_attention" in needs:
        out["last_attention"] = _last_row(tapped.last, tapped.keys, tapped.scale, layout)
    if tapped is not None and "text_attention" in needs:
        seen = layout.valid[images.sample][:, None] & (
            layout.slots[images.sample][:, None] <= layout.slots[images.sample].gather(1, rows)[..., None]
        )
        probabilities = attention_rows(tapped.text, tapped.keys[images.sample], seen, tapped.scale)
        place = images.place[:, None, None].expand(*probabilities.shape[:3], -1)
        picked = probabilities.gather(3, place) * images.valid[:, None, None]
        out["text_attention"] = picked * real[:, None, :, None]
    if "next_attention" in needs:
        attention: Any = layer.self_attn
        normed = layer.input_layernorm(hidden)  # type: ignore[operator]
        keys = heads_of(attention, "k", normed)
        batch, last = torch.arange(len(hidden), device=hidden.device), layout.last()
        queries = heads_of(attention, "q", normed[batch, last][:, None])
        queries = rotate(queries, rope[0][batch, last][:, None], rope[1][batch, last][:, None])
        out["next_attention"] = _last_row(queries, rotate(keys, *rope), attention.scaling, layout)
    if tapped is not None and "keys" in needs:
        keys = tapped.keys[images.rows, :, images.place].transpose(1, 2)
        out["keys"] = keys * images.valid[:, None, :, None]
    if tapped is not None and "text_keys" in needs:
        out["text_keys"] = tapped.keys[sample, :, rows].transpose(1, 2) * real[:, None, :, None]
    if "text_hidden" in needs:
        out["text_hidden"] = hidden[sample, rows] * real[..., None]
    if "normed" in needs:
        out["normed"] = text.norm(images.take(hidden)) * images.valid[..., None]
    if "text_normed" in needs:
        out["text_normed"] = text.norm(hidden[sample, rows]) * real[..., None]
    return out


def heads_of(attention: Any, which: str, normed: Tensor) -> Tensor:
    """Return queries ("q") or keys ("k") before rotary positions, (B, heads, S, hd), of normed states (B, S, D).

    Some language models (Qwen3) norm each head.
    """
    heads = getattr(attention, f"{which}_proj")(normed)
    heads = heads.view(*heads.shape[:2], -1, attention.head_dim)
    norm = getattr(attention, f"{which}_norm", None)
    found: Tensor = heads if norm is None else norm(heads)
    return found.transpose(1, 2)


def _last_row(queries: Tensor, keys: Tensor, scale: float, layout: Layout) -> Tensor:
    """Return the attention (I, H, N) of the last prompt token to each image's tokens."""
    images = layout.images
    row = attention_rows(queries, keys, layout.valid[:, None], scale)[:, :, 0]
    place = images.place[:, None].expand(-1, row.shape[1], -1)
    return row[images.sample].gather(2, place) * images.valid[:, None]


def entry_signals(
    needs: Iterable[str],
    layout: Layout,
    embeds: Tensor,
    tower: TowerRun | None,
    images: Tensor,
) -> dict[str, Tensor]:
    """Return the signals that exist where the language model is entered.

    Args:
        needs: names of `autotc.reducer.SIGNALS`; others are left out.
        layout: of the rows of `embeds`.
        embeds: (B, S, D).
        tower: the vision side's signals, indexed by original token; None to leave them out.
        images: (I,) the tower's image of each image.
    """
    needs = set(needs)
    out: dict[str, Tensor] = {}
    if tower is not None:
        for name in needs & set(tower.signals):
            values = tower.signals[name][images]
            source = layout.images.source
            valid = layout.images.valid
            if name.endswith("attention"):  # (I, H, N0)
                picked = values.gather(2, source[:, None].expand(-1, values.shape[1], -1))
                out[name] = picked * valid[:, None]
            else:  # (I, N0, D)
                picked = values.gather(1, source[..., None].expand(*source.shape, values.shape[-1]))
                out[name] = picked * valid[..., None]
    if "input_embeds" in needs:
        out["input_embeds"] = layout.images.take(embeds)
    if "text_embeds" in needs:
        rows, real = layout.text_rows()
        out["text_embeds"] = embeds[layout.images.sample[:, None], rows] * real[..., None]
    return out
