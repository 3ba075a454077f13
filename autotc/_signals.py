"""Signals of the language model: computed for the rows and tokens a reducer declared, nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autotc import kernels
from autotc._layout import Layout
from autotc._tap import attention_rows, rotate
from autotc.reducer import axes

if TYPE_CHECKING:
    from autotc._tower import TowerRun


TAPPED = {"last_attention", "text_attention", "text_self_attention", "keys", "text_keys"}
WHOLE = {"peak_attention", "flow_attention"}  # need every query of the layer before
BEFORE = WHOLE | {"hidden_before", "content_attention", "transition"}  # that layer has to run for them

TOWER = {
    "cls_attention": ("last", "cls"),
    "received_attention": ("last", "received"),
    "vision_keys": ("last", "keys"),
    "features": ("last", "features"),
    "final_cls_logits": ("final", "cls_logits"),
    "final_cls_attention": ("final", "wide_row"),
    "final_keys": ("final", "wide_keys"),
    "vision_attention": ("last", "map"),
    "first_cls_attention": ("first", "cls"),
    "first_received_attention": ("first", "received"),
    "early_cls_attention": ("early", "cls"),
    "early_received_attention": ("early", "received"),
    "middle_received_attention": ("middle", "received"),
}
"""Signals for the sites behind the tower: of which block, and what of it."""
BLOCK = {
    "block_cls_attention": "cls",
    "block_received_attention": "received",
    "block_keys": "keys",
    "block_values": "values",
    "block_value_attention": "value_row",
    "block_logits": "logits",
    "block_cls_logits": "logits_row",
}
COMMON = ("cls_attention", "received_attention", "vision_keys", "features")


@dataclass(frozen=True)
class Tapped:
    """What an attention layer showed: queries of the last token and of the text, all keys.

    Args:
        last: (B, H, 1, hd) after rotary positions.
        text: (I, H, T, hd), text behind each image.
        keys: (B, G, S, hd) after rotary positions.
        scale: factor of the logits.
        queries: (B, H, S, hd) after rotary positions, where a signal needs all of them.
    """

    last: Tensor
    text: Tensor
    keys: Tensor
    scale: float
    queries: Tensor | None = None

    @staticmethod
    def of(queries: Tensor, keys: Tensor, scale: float, layout: Layout, whole: bool = False) -> Tapped:
        """Pick the rows from all queries (B, H, S, hd); keep all of them if `whole`."""
        rows, _ = layout.text_rows()
        text = queries[layout.images.sample[:, None], :, rows].transpose(1, 2)
        last = queries[torch.arange(len(queries), device=queries.device), :, layout.last()][:, :, None]
        return Tapped(last, text, keys, scale, queries if whole else None)


@dataclass
class Before:
    """What the layer before a cut did.

    Args:
        layer: the module.
        hidden: (B, S, D) entering it.
        turn: (B, S) its token transition so far, where that is watched.
    """

    layer: nn.Module
    hidden: Tensor
    turn: Tensor | None = None
    normed: Tensor | None = field(default=None, repr=False)

    def show(self, part: str, output: Any, layout: Layout) -> None:
        """Take what a norm gave ("in") or what attention or MLP made of it ("out")."""
        if part == "in":
            self.normed = output
            return
        after = output[0] if isinstance(output, tuple) else output
        assert self.normed is not None
        turn = kernels.transition(self.normed, after, layout.valid)
        self.turn = turn if self.turn is None else self.turn + turn


def decoder_signals(
    needs: Iterable[str],
    layer: nn.Module,
    text: Any,
    hidden: Tensor,
    tapped: Tapped | None,
    before: Before | None,
    layout: Layout,
    rope: tuple[Tensor, Tensor],
) -> dict[str, Tensor]:
    """Return the signals of a cut before a decoder layer.

    Args:
        needs: names of `autotc.reducer.SIGNALS`; others than the decoder's own are left out.
        layer: the layer that will see fewer tokens.
        text: the language model.
        hidden: (B, S, D) entering the layer.
        tapped: what the attention of the layer before showed.
        before: what that layer did.
        layout: of the layer before, which is that of `hidden`.
        rope: cos and sin (B, S, hd) of the rows.
    """
    needs, images = set(needs), layout.images
    out: dict[str, Tensor] = {}
    if tapped is not None:
        out |= _tapped_signals(needs, tapped, layout)
    if needs & {"next_attention", "next_text_attention", "next_keys", "prefix_attention"}:
        out |= _next_signals(needs, layer, hidden, layout, rope)
    if before is not None:
        if "hidden_before" in needs:
            out["hidden_before"] = images.take(before.hidden)
        if "content_attention" in needs:
            out["content_attention"] = _content(before, layout)
        if "transition" in needs and before.turn is not None:
            out["transition"] = before.turn[images.rows, images.place] * images.valid
    if needs & {"text_hidden", "text_normed"}:
        rows, real = layout.text_rows()
        states = hidden[images.sample[:, None], rows]
        if "text_hidden" in needs:
            out["text_hidden"] = states * real[..., None]
        if "text_normed" in needs:
            out["text_normed"] = text.norm(states) * real[..., None]
    if "normed" in needs:
        out["normed"] = text.norm(images.take(hidden)) * images.valid[..., None]
    return out


def _tapped_signals(needs: set[str], tapped: Tapped, layout: Layout) -> dict[str, Tensor]:
    """Return what the queries and keys of the layer before say."""
    images = layout.images
    rows, real = layout.text_rows()
    out: dict[str, Tensor] = {}
    if "last_attention" in needs:
        out["last_attention"] = _last_row(tapped.last, tapped.keys, tapped.scale, layout)
    if needs & {"text_attention", "text_self_attention"}:
        found = _text_rows(tapped.text, tapped.keys, tapped.scale, layout)
        if "text_attention" in needs:
            out["text_attention"] = _columns(found, images.place, images.valid) * real[:, None, :, None]
        if "text_self_attention" in needs:
            out["text_self_attention"] = _columns(found, rows, real) * real[:, None, :, None]
    if "keys" in needs:
        keys = tapped.keys[images.rows, :, images.place].transpose(1, 2)
        out["keys"] = keys * images.valid[:, None, :, None]
    if "text_keys" in needs:
        out["text_keys"] = (
            tapped.keys[images.sample[:, None], :, rows].transpose(1, 2) * real[:, None, :, None]
        )
    if "peak_attention" in needs:
        out["peak_attention"] = _peaks(tapped, layout)
    if "flow_attention" in needs:
        out["flow_attention"] = _flow(tapped, layout)
    return out


def _next_signals(
    needs: set[str], layer: Any, hidden: Tensor, layout: Layout, rope: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Return what the layer's own norm and projections say before it runs."""
    attention, images = layer.self_attn, layout.images
    normed = layer.input_layernorm(hidden)
    keys = heads_of(attention, "k", normed)
    turned = rotate(keys, *rope)
    scale: float = attention.scaling
    out: dict[str, Tensor] = {}
    if "next_attention" in needs:
        batch, last = torch.arange(len(hidden), device=hidden.device), layout.last()
        query = heads_of(attention, "q", normed[batch, last][:, None])
        query = rotate(query, rope[0][batch, last][:, None], rope[1][batch, last][:, None])
        out["next_attention"] = _last_row(query, turned, scale, layout)
    if "next_text_attention" in needs:
        rows, real = layout.text_rows()
        sample = images.sample[:, None]
        queries = heads_of(attention, "q", normed[sample, rows])
        queries = rotate(queries, rope[0][sample, rows], rope[1][sample, rows])
        found = _text_rows(queries, turned, scale, layout)
        out["next_text_attention"] = _columns(found, images.place, images.valid) * real[:, None, :, None]
    if "next_keys" in needs:
        own = turned[images.rows, :, images.place].transpose(1, 2)
        out["next_keys"] = own * images.valid[:, None, :, None]
    if "prefix_attention" in needs:
        queries = heads_of(attention, "q", normed)[images.sample]
        seen = layout.valid[images.sample] & (layout.slots[images.sample] <= images.end[:, None])
        row = kernels.mean_query_attention(queries, keys[images.sample], seen, scale)
        out["prefix_attention"] = _columns(row[:, :, None], images.place, images.valid)[:, :, 0]
    return out


def heads_of(attention: Any, which: str, normed: Tensor) -> Tensor:
    """Return queries ("q") or keys ("k") before rotary positions, (B, heads, S, hd), of a normed state (B, S, D)."""
    states = getattr(attention, f"{which}_proj")(normed)
    states = states.view(*states.shape[:2], -1, attention.head_dim)
    norm = getattr(attention, f"{which}_norm", None)  # Qwen3 norms each head
    found: Tensor = states if norm is None else norm(states)
    return found.transpose(1, 2)


def _text_rows(queries: Tensor, keys: Tensor, scale: float, layout: Layout) -> Tensor:
    """Return the attention (I, H, T, S) of the text behind each image, queries (I, H, T, hd)."""
    images = layout.images
    rows, _ = layout.text_rows()
    slots = layout.slots[images.sample]
    seen = layout.valid[images.sample][:, None] & (slots[:, None] <= slots.gather(1, rows)[..., None])
    return attention_rows(queries, keys[images.sample], seen, scale)


def _columns(probabilities: Tensor, place: Tensor, valid: Tensor) -> Tensor:
    """Pick the columns (I, M) from (I, H, R, S); what is not valid is zero."""
    index = place[:, None, None].expand(*probabilities.shape[:3], -1)
    return probabilities.gather(3, index) * valid[:, None, None]


def _content(before: Before, layout: Layout) -> Tensor:
    layer: Any = before.layer
    images, attention = layout.images, layer.self_attn
    normed = layer.input_layernorm(before.hidden)
    last = normed[torch.arange(len(normed), device=normed.device), layout.last()]
    query = heads_of(attention, "q", last[:, None])[images.sample, :, 0]
    keys = heads_of(attention, "k", images.take(normed))
    return kernels.content_attention(query, keys, images.valid, attention.scaling)


def _peaks(tapped: Tapped, layout: Layout, rows: int = 256) -> Tensor:
    """Return peak attention (I, N), some query rows at a time to bound the memory."""
    images, queries = layout.images, tapped.queries
    assert queries is not None
    slots = layout.slots[images.sample]
    total = torch.zeros(images.place.shape, device=queries.device)
    for start in range(0, images.place.shape[1], rows):
        place, valid = images.place[:, start : start + rows], images.valid[:, start : start + rows]
        mine = queries[images.sample[:, None], :, place].transpose(1, 2)
        seen = layout.valid[images.sample][:, None] & (slots[:, None] <= slots.gather(1, place)[..., None])
        found = attention_rows(mine, tapped.keys[images.sample], seen, tapped.scale)
        found = _columns(found, images.place, images.valid)
        total += kernels.peak_attention(found, valid) * valid.sum(1)[:, None]
    return total / images.valid.sum(1).clamp_min(1)[:, None]


def _flow(tapped: Tapped, layout: Layout) -> Tensor:
    queries, images = tapped.queries, layout.images
    assert queries is not None
    keys = tapped.keys.repeat_interleave(queries.shape[1] // tapped.keys.shape[1], 1)
    n, lowest = layout.length, torch.finfo(torch.float32).min
    causal = torch.ones(n, n, dtype=torch.bool, device=queries.device).tril()
    seen = (causal & layout.valid[:, None]) | torch.eye(n, dtype=torch.bool, device=queries.device)
    logits = (queries.float() @ keys.float().transpose(-1, -2) * tapped.scale).masked_fill(
        ~seen[:, None], lowest
    )
    flow = (
        kernels.attention_flow(logits) * (n / layout.valid.sum(1))[:, None, None]
    )  # padding keeps its own share
    return _columns(flow[images.sample][:, :, None], images.place, images.valid)[:, :, 0]


def _last_row(queries: Tensor, keys: Tensor, scale: float, layout: Layout) -> Tensor:
    """Return the attention (I, H, N) of the last prompt token to each image's tokens."""
    images = layout.images
    row = attention_rows(queries, keys, layout.valid[:, None], scale)[:, :, 0]
    place = images.place[:, None].expand(-1, row.shape[1], -1)
    return row[images.sample].gather(2, place) * images.valid[:, None]


def entry_signals(needs: Iterable[str], layout: Layout, embeds: Tensor) -> dict[str, Tensor]:
    """Return the embeddings as they enter the language model.

    Args:
        needs: names of `autotc.reducer.SIGNALS`; others are left out.
        layout: of the rows of `embeds`.
        embeds: (B, S, D).
    """
    needs = set(needs)
    out: dict[str, Tensor] = {}
    if "input_embeds" in needs:
        out["input_embeds"] = layout.images.take(embeds)
    if "text_embeds" in needs:
        rows, real = layout.text_rows()
        out["text_embeds"] = embeds[layout.images.sample[:, None], rows] * real[..., None]
    return out


def tower_signals(needs: Iterable[str], layout: Layout, tower: TowerRun, images: Tensor) -> dict[str, Tensor]:
    """Return the vision side's signals for the tokens left in a layout.

    Args:
        needs: names of `autotc.reducer.SIGNALS`; others are left out.
        layout: which tokens are left.
        tower: its signals are indexed by original token.
        images: (I,) the tower's image of each image.
    """
    mine = layout.images
    return {
        name: at_sources(name, tower.signals[name][images], mine.source, mine.valid)
        for name in set(needs) & set(tower.signals)
    }


def at_sources(name: str, values: Tensor, source: Tensor, valid: Tensor) -> Tensor:
    """Pick tokens (I, N) from a signal indexed by original token, along each of its token axes."""
    for axis, label in enumerate(axes(name)):
        if label == "N":
            shape = [len(source), *(1 for _ in values.shape[1:])]
            shape[axis] = source.shape[1]
            wide = list(values.shape)
            wide[axis] = source.shape[1]
            values = values.gather(axis, source.view(shape).expand(wide)) * valid.view(shape)
    return values
