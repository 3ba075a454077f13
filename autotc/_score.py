"""Answers scored in one chunk against the cache of a finished prefill.

A chunk packs up to three segments behind each prompt: the tokens of the target answer, the uncompressed
model's own answer where it differs, and another question of the same image with its answer. A segment sees
the cache and itself, never another segment; the other question sees only the part of the cache that both
prompts share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from autotc._layout import Layout
from autotc.adapter import ModelAdapter


@dataclass
class State:
    """A prompt after its prefill.

    Args:
        keys, values: by decoder layer, (B, G, n, hd); n may differ from layer to layer.
        layouts: by decoder layer, which prompt columns its rows are; consecutive layers share one object.
        logits: (B, V) of the last prompt token.
        next: (B,) int64, rotary position of the first token behind the prompt, where a layout does not say
            otherwise.
        axes: rows of rotary positions, 3 for M-RoPE, else 1.
        length: columns of the prompt, padding included.
    """

    keys: list[Tensor]
    values: list[Tensor]
    layouts: list[Layout]
    logits: Tensor
    next: Tensor
    axes: int
    length: int


@dataclass
class Extension:
    """What a decoder layer sees as its cache while a chunk runs: the prefill's rows and then the chunk's own.

    With `grow` the chunk's rows stay, so that another chunk can follow.
    """

    keys: list[Tensor]
    values: list[Tensor]
    grow: bool = False

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return all keys and values of a layer, the new ones last."""
        key = torch.cat([self.keys[layer_idx], key], 2)
        value = torch.cat([self.values[layer_idx], value], 2)
        if self.grow:
            self.keys[layer_idx], self.values[layer_idx] = key, value
        return key, value


@dataclass(frozen=True)
class Segment:
    """Tokens behind the prompt.

    Args:
        ids: (B, T) int64, padded on the right.
        back: (B,) int64, how many text tokens at the end of the prompt the segment stands in for: it takes
            their places and does not see them; None: it stands behind the prompt and sees the whole cache.
    """

    ids: Tensor
    back: Tensor | None = None


def run_chunk(
    adapter: ModelAdapter,
    state: State,
    segments: Sequence[Segment],
    grown: Extension | None = None,
    before: int = 0,
) -> Tensor:
    """Return the hidden states (B, T, D), before the final norm, of all segments one after another.

    Args:
        adapter: of the model; a compression that is attached must not take these calls for its own.
        state: the prefill.
        segments: see `Segment`.
        grown: cache to use and to extend instead of the prefill's own; it holds `before` tokens behind the
            prompt.
        before: tokens of earlier chunks in `grown`, which only a single segment may follow.
    """
    hidden = adapter.text.embed_tokens(torch.cat([s.ids for s in segments], 1))
    own = _own_mask([s.ids.shape[1] for s in segments], before, hidden.device)
    cache = grown or Extension(list(state.keys), list(state.values))
    ready: dict[int, tuple[Tensor, Tensor]] = {}
    for layout in state.layouts:
        if id(layout) not in ready:
            seen = torch.cat([_seen(state, layout, s) for s in segments], 1)
            mask = torch.cat([seen, own.expand(len(hidden), -1, -1)], -1)[:, None]
            ready[id(layout)] = mask, torch.cat([_positions(state, layout, s, before) for s in segments], -1)
    return _run_layers(adapter, hidden, cache, [ready[id(layout)] for layout in state.layouts])


def _run_layers(
    adapter: ModelAdapter, hidden: Tensor, cache: Extension, seen: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Run all decoder layers, each with its mask (B, 1, T, n) and rotary positions (P, B, T)."""
    rotary: dict[int, tuple[Tensor, Tensor]] = {}
    for layer, (mask, positions) in zip(adapter.layers, seen, strict=True):
        placed = positions if len(positions) > 1 else positions[0]
        if id(positions) not in rotary:
            rotary[id(positions)] = adapter.text.rotary_emb(hidden, placed)
        out = layer(
            hidden,
            attention_mask=mask,
            position_ids=placed,
            past_key_values=cache,
            use_cache=True,
            position_embeddings=rotary[id(positions)],
        )
        hidden = out[0] if isinstance(out, tuple) else out
    return hidden


def head(adapter: ModelAdapter, hidden: Tensor) -> Tensor:
    """Return float32 logits of hidden states before the final norm."""
    model: Any = adapter.model
    logits: Tensor = model.lm_head(adapter.text.norm(hidden))
    return logits.float()


def greedy(adapter: ModelAdapter, state: State, new_tokens: int, stop: Sequence[int]) -> list[list[int]]:
    """Return the most likely continuation of each prompt, up to and with a stop token, at most `new_tokens`
    long.
    """
    grown = Extension(list(state.keys), list(state.values), grow=True)
    token = state.logits.argmax(-1)
    found = [token]
    ends = torch.tensor(list(stop), device=token.device)
    done = torch.isin(token, ends)
    while len(found) < new_tokens and not bool(done.all()):
        hidden = run_chunk(adapter, state, [Segment(token[:, None])], grown, before=len(found) - 1)
        token = head(adapter, hidden)[:, -1].argmax(-1)
        found.append(token)
        done |= torch.isin(token, ends)
    out = []
    for row in torch.stack(found, 1).tolist():
        end = next((i + 1 for i, t in enumerate(row) if t in set(stop)), len(row))
        out.append(row[:end])
    return out


def blind(adapter: ModelAdapter, ids: Tensor, positions: Tensor, whole: State) -> State:
    """Return the state of the prompts without any visual token; the text keeps its positions.

    Args:
        adapter: of the model.
        ids: (B, N) the prompts, padded on the left.
        positions: (P, B, N) rotary positions of the whole prompts.
        whole: their state with all tokens.
    """
    layout = whole.layouts[0]
    text = layout.valid & (ids != adapter.image_token)
    longest = int(text.sum(1).max())
    order = torch.argsort(text.to(torch.int8), dim=1, stable=True)[:, -longest:]
    valid = text.gather(1, order)
    slots = torch.where(valid, order, 0)
    layouts = [Layout(slots, valid, layout.images, slots)] * len(adapter.layers)
    eye = torch.eye(longest, dtype=torch.bool, device=ids.device)
    seen = (torch.ones_like(eye).tril() & valid[:, None, None]) | eye
    hidden = adapter.text.embed_tokens(ids.gather(1, order))
    groups, width = whole.keys[0].shape[1], whole.keys[0].shape[3]
    empty = [hidden.new_zeros(len(ids), groups, 0, width)] * len(adapter.layers)
    cache = Extension(list(empty), list(empty), grow=True)
    placed = positions.gather(2, order.expand(len(positions), *order.shape))
    hidden = _run_layers(adapter, hidden, cache, [(seen, placed)] * len(adapter.layers))
    logits = head(adapter, hidden[:, -1])
    return State(cache.keys, cache.values, layouts, logits, whole.next, whole.axes, whole.length)


@dataclass(frozen=True)
class Answers:
    """What a batch is scored on; all tensors are padded on the right with -1.

    Args:
        target: (B, A) the tokens that count as the right answer, end token included.
        own: (B, O) the uncompressed model's own answer.
        asked: (B, Q) the part of the other question's prompt that differs from this prompt; nothing: no such
            question.
        asked_target: (B, A2) the right answer to it.
        back: (B,) how many tokens at the end of this prompt the other prompt does not share.
        logp: (B, O, K) log probabilities of the uncompressed model where it writes `own`; the last of K is
            the rest of the vocabulary when `kept` is there.
        kept: (B, O, K-1) the tokens those probabilities are of, None: the whole vocabulary.
        moved: (B, O) bool, tokens of `own` whose probability the image moves.
    """

    target: Tensor
    own: Tensor
    asked: Tensor
    asked_target: Tensor
    back: Tensor
    logp: Tensor | None = None
    kept: Tensor | None = None
    moved: Tensor | None = None


@dataclass
class Scores:
    """Figures of a batch, each (B,), and the most likely tokens (B, A); logits of `own` when asked for."""

    correct: Tensor
    agreement: Tensor
    kl: Tensor
    next_correct: Tensor
    tokens: Tensor
    own_logits: Tensor | None = field(default=None, repr=False)


def score(
    adapter: ModelAdapter,
    state: State,
    answers: Answers,
    with_next: bool = True,
    partly: bool = False,
    keep: bool = False,
) -> Scores:
    """Score a batch in one chunk.

    `correct` is 1 where greedy decoding of this state writes exactly the target: every target token is the
    most likely one after the target tokens before it, which is what greedy decoding looks at until its first
    mistake.

    Args:
        adapter, state: the model and its prefill.
        answers: what to score.
        with_next: ask the other question too, else `next_correct` is NaN.
        partly: an answer counts by its share of right tokens, instead of all or nothing.
        keep: also return the logits of `own`, (B, O, V).
    """
    count = _share_right if partly else _all_right
    a, o = answers.target.shape[1], answers.own.shape[1]
    same = a == o and bool((answers.target == answers.own).all())
    asked = answers.asked.shape[1] if with_next else 0
    parts: list[Segment] = [Segment(answers.target[:, :-1].clamp_min(0))]
    if not same:
        parts.append(Segment(answers.own[:, :-1].clamp_min(0)))
    if asked:
        both = torch.cat([answers.asked, answers.asked_target[:, :-1]], 1)
        parts.append(Segment(_close(both).clamp_min(0), answers.back))
    widths = [p.ids.shape[1] for p in parts]
    device = state.logits.device
    columns = [
        torch.arange(sum(widths[: len(parts) - bool(asked)]), device=device).expand(len(state.logits), -1)
    ]
    if asked:
        first = sum(widths[:-1]) + (answers.asked >= 0).sum(1, keepdim=True) - 1
        a2 = answers.asked_target.shape[1]
        columns.append((first + torch.arange(a2, device=device)).clamp(0, sum(widths) - 1))
    index = torch.cat(columns, 1)
    vocabulary = state.logits.shape[-1]
    logits = state.logits.new_zeros(len(index), 0, vocabulary)
    if sum(widths):
        hidden = run_chunk(adapter, state, parts)
        logits = head(adapter, hidden.gather(1, index[..., None].expand(*index.shape, hidden.shape[-1])))
    begin = state.logits[:, None]
    target_logits = torch.cat([begin, logits[:, : a - 1]], 1)
    own_logits = target_logits if same else torch.cat([begin, logits[:, a - 1 : a + o - 2]], 1)
    tokens = target_logits.argmax(-1)
    agrees = _share_right(own_logits.argmax(-1), answers.own)
    nan = torch.full((len(index),), torch.nan, device=device)
    following = nan
    if asked:
        written = logits[:, -answers.asked_target.shape[1] :].argmax(-1)
        right = count(written, answers.asked_target)
        following = torch.where((answers.asked >= 0).any(1), right, nan)
    kl = nan if answers.moved is None else _kl(own_logits, answers)
    return Scores(count(tokens, answers.target), agrees, kl, following, tokens, own_logits if keep else None)


def padded(rows: Sequence[Sequence[int]], device: torch.device | None = None) -> Tensor:
    """Return rows of token ids as one tensor, padded on the right with -1, at least one column wide."""
    longest = max([1, *(len(r) for r in rows)])
    return torch.tensor([[*r, *[-1] * (longest - len(r))] for r in rows], dtype=torch.long, device=device)


def _all_right(found: Tensor, wanted: Tensor) -> Tensor:
    return ((found == wanted) | (wanted < 0)).all(1).float()


def _share_right(found: Tensor, wanted: Tensor) -> Tensor:
    there = wanted >= 0
    return ((found == wanted) & there).sum(1) / there.sum(1).clamp_min(1)


def _kl(logits: Tensor, answers: Answers) -> Tensor:
    """Mean KL(uncompressed || this) over the moved tokens, NaN where there are none.

    Over a truncated vocabulary the rest is one event, which makes the divergence a lower bound.
    """
    assert answers.logp is not None and answers.moved is not None
    mine = logits.log_softmax(-1)
    if answers.kept is not None:
        part = mine.gather(-1, answers.kept)
        rest = (1 - part.exp().sum(-1, keepdim=True)).clamp_min(1e-9).log()
        mine = torch.cat([part, rest], -1)
    each = (answers.logp.exp() * (answers.logp - mine)).sum(-1)
    count = answers.moved.sum(1)
    total = torch.where(answers.moved, each, 0).sum(1).clamp_min(0)
    return torch.where(count > 0, total / count.clamp_min(1), torch.nan)


def _close(ids: Tensor) -> Tensor:
    """Move the -1 of each row to its right end."""
    order = torch.argsort((ids < 0).to(torch.int8), dim=1, stable=True)
    return ids.gather(1, order)


def _own_mask(widths: Sequence[int], before: int, device: torch.device) -> Tensor:
    """Return who sees whom inside the chunk, (T, before + T): causal within a segment, nothing across."""
    segment = torch.arange(len(widths), device=device).repeat_interleave(torch.tensor(widths, device=device))
    causal = torch.ones(len(segment), len(segment), dtype=torch.bool, device=device).tril()
    return pad(causal & (segment[:, None] == segment), (before, 0), value=True)


def _seen(state: State, layout: Layout, segment: Segment) -> Tensor:
    """Return which rows of the prefill the tokens of a segment see, (B, T, n)."""
    seen = layout.valid
    if segment.back is not None:
        seen = seen & (layout.slots < state.length - segment.back[:, None])
    return seen[:, None].expand(-1, segment.ids.shape[1], -1)


def _positions(state: State, layout: Layout, segment: Segment, before: int) -> Tensor:
    """Return the rotary positions of a segment's tokens, (P, B, T): text advances by one a token on every
    axis.
    """
    renumbered = layout.positions is not None and layout.next is not None
    first = layout.next if renumbered and layout.next is not None else state.next
    if segment.back is not None:
        first = first - segment.back
    steps = torch.arange(before, before + segment.ids.shape[1], device=segment.ids.device)
    return (first[:, None] + steps).expand(state.axes, -1, -1)
