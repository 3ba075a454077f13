"""Two independent ways to run a policy's decisions, neither of which uses the engine.

`masked`: nothing is removed; from the stage's layer on nobody sees the dropped tokens.
`driven`: prompts one by one, without padding; token matrices are multiplied by `dense()` and the layers
called in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from autotc.apply import Compression
from autotc.policy import Policy

Kept = dict[int, list[list[int]]]  # stage -> image -> original indices left


def kept_by_stage(compression: Compression, counts: list[int]) -> Kept:
    """Follow the assignments from stage to stage."""
    left = [list(range(n)) for n in counts]
    out: Kept = {}
    for i in range(len(compression.policy.stages)):
        assignment = compression.decisions.get(i)
        if assignment is not None:
            left = [
                [mine[a] for a, real in zip(anchors.tolist(), valid.tolist(), strict=True) if real]
                for mine, anchors, valid in zip(left, assignment.anchors, assignment.valid, strict=True)
            ]
        out[i] = [list(mine) for mine in left]
    return out


def image_columns(ids: Tensor, image_token: int, counts: list[int]) -> list[tuple[int, list[int]]]:
    """Return (prompt, columns) of each image."""
    places = [(b, c) for b in range(len(ids)) for c in (ids[b] == image_token).nonzero().flatten().tolist()]
    out, start = [], 0
    for n in counts:
        mine = places[start : start + n]
        out.append((mine[0][0], [c for _, c in mine]))
        start += n
    return out


@contextmanager
def last_residual(model: Any) -> Iterator[list[Tensor]]:
    """Record the state of the last position that enters the final norm, one entry a call."""
    seen: list[Tensor] = []
    handle = model.model.language_model.norm.register_forward_pre_hook(
        lambda m, args: seen.append(args[0][:, -1])
    )
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def masked(
    model: Any, policy: Policy, kept: Kept, inputs: dict[str, Tensor], counts: list[int]
) -> Iterator[None]:
    """Make a stock model blind for dropped tokens, in the prompt and in every later step; beams repeat
    prompts.
    """
    ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
    core, length = model.model, ids.shape[1]
    where = image_columns(ids, model.config.image_token_id, counts)
    handles = []
    hidden_from: dict[int, Tensor] = {}  # layer -> (B, L) columns that nobody sees
    hide = torch.zeros_like(valid)
    for layer in range(len(core.language_model.layers)):
        for i, stage in enumerate(policy.stages):
            if (stage.layer if stage.site == "decoder" else 0) == layer:
                for image, (b, columns) in enumerate(where):
                    for source, column in enumerate(columns):
                        hide[b, column] |= source not in kept[i][image]
        hidden_from[layer] = hide.clone()

    def blind(layer: int) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            hidden, cache = args[0], kwargs.get("past_key_values")
            past = 0
            if cache is not None and len(cache.layers) > layer:
                past = cache.layers[layer].get_seq_length()
            new, beams = hidden.shape[1], len(hidden) // len(ids)
            seen = (valid & ~hidden_from[layer]).repeat_interleave(beams, 0)
            seen = torch.nn.functional.pad(seen, (0, past + new - length), value=True)
            rows = torch.arange(past, past + new)[:, None]
            allowed = seen[:, None, None, :] & (torch.arange(past + new)[None] <= rows)
            allowed = allowed | (torch.arange(past + new)[None] == rows)
            mask = torch.zeros(allowed.shape, dtype=hidden.dtype).masked_fill(
                ~allowed, torch.finfo(hidden.dtype).min
            )
            return args, {**kwargs, "attention_mask": mask}

        return hook

    for i, layer in enumerate(core.language_model.layers):
        handles.append(layer.register_forward_pre_hook(blind(i), with_kwargs=True))
    with _masked_tower(model, policy, kept):
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _masked_tower(model: Any, policy: Policy, kept: Kept) -> Iterator[None]:
    stages = [(i, s) for i, s in enumerate(policy.stages) if s.site == "vision"]
    if not stages:
        yield
        return
    clip, shuffled = model.config.model_type == "llava", model.config.model_type == "internvl"
    if clip:
        blocks = model.model.vision_tower.encoder.layers
    else:
        blocks = model.model.vision_tower.encoder.layer if shuffled else model.model.visual.blocks
    grids: list[Any] = []
    handles, changed = [], []
    if not clip and not shuffled:
        handles.append(
            model.model.visual.register_forward_pre_hook(
                lambda m, args, kwargs: grids.append(
                    kwargs.get("grid_thw", args[1] if len(args) > 1 else None)
                ),
                with_kwargs=True,
            )
        )
    for i, block in enumerate(blocks):
        now = [stage for stage, s in stages if (s.layer or 0) <= i]
        if not now:
            continue
        if clip:

            def hook(module: Any, args: Any, kwargs: dict[str, Any], stage: int = now[-1]) -> Any:
                hidden = args[0]
                mask = torch.zeros(len(hidden), 1, 1, hidden.shape[1], dtype=hidden.dtype)
                repeats = len(hidden) // len(kept[stage])  # older transformers encode once a beam
                for image in range(len(hidden)):
                    gone = sorted(set(range(hidden.shape[1] - 1)) - set(kept[stage][image // repeats]))
                    mask[image, 0, 0, [1 + g for g in gone]] = torch.finfo(hidden.dtype).min
                return (hidden,), {
                    **{k: v for k, v in kwargs.items() if k != "attention_mask"},
                    "attention_mask": mask,
                }

            handles.append(block.register_forward_pre_hook(hook, with_kwargs=True))
        elif shuffled:

            def forward_shuffled(
                hidden: Tensor, attention: Any = block.attention, stage: int = now[-1]
            ) -> tuple[Tensor, None]:
                mask = torch.zeros(len(hidden), hidden.shape[1], dtype=hidden.dtype)
                repeats = len(hidden) // len(kept[stage])
                members = square_rows(hidden.shape[1] - 1)
                for image in range(len(hidden)):
                    gone = sorted(set(range(len(members))) - set(kept[stage][image // repeats]))
                    mask[image, 1 + members[gone].flatten()] = torch.finfo(hidden.dtype).min
                return shuffled_attention(attention, hidden, mask), None

            block.attention.forward = forward_shuffled
            changed.append(block.attention)
        else:

            def forward(
                hidden: Tensor,
                cu_seqlens: Tensor,
                position_embeddings: Any = None,
                attention: Any = block.attn,
                stage: int = now[-1],
                **_: Any,
            ) -> Tensor:
                gone = _rows_gone(model, grids[-1], kept[stage])
                return packed_attention(attention, hidden, position_embeddings, _same_chunk(cu_seqlens), gone)

            block.attn.forward = forward
            changed.append(block.attn)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in changed:
            del module.forward


def square_rows(patches: int) -> Tensor:
    """For each token of an InternVL tile of so many patches, the rows of its four patches (CLS left out)."""
    side = round(patches**0.5)
    corners = [(2 * r, 2 * c) for r in range(side // 2) for c in range(side // 2)]
    return torch.tensor([[(r + i) * side + c + j for i in (0, 1) for j in (0, 1)] for r, c in corners])


def shuffled_attention(attention: Any, hidden: Tensor, bias: Tensor) -> Tensor:
    """InternViT's attention with an explicit bias (I, S) of each key."""
    q, k = attention.q_norm(attention.q_proj(hidden)), attention.k_norm(attention.k_proj(hidden))
    q, k, v = (
        t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, attention.v_proj(hidden))
    )
    weights = (q @ k.transpose(-1, -2) * attention.scale + bias[:, None, None]).softmax(-1)
    return attention.projection_layer((weights @ v).transpose(1, 2).flatten(2))


def tower_order(model: Any, grid_thw: Tensor) -> Tensor:
    """For each group of the tower's order, its index over all images (the stock function)."""
    if model.config.model_type != "qwen2_5_vl":
        return torch.arange(int(grid_thw.prod(1).sum()) // 4)
    from transformers.vision_utils import get_vision_window_index

    v = model.config.vision_config
    return get_vision_window_index(
        grid_thw, spatial_merge_size=v.spatial_merge_size, window_size=v.window_size, patch_size=v.patch_size
    )[0]


def _rows_gone(model: Any, grid_thw: Tensor, kept: list[list[int]]) -> Tensor:
    starts = [0, *(grid_thw.prod(1) // 4).cumsum(0).tolist()]
    repeats = len(grid_thw) // len(kept)  # older transformers encode once a beam
    left = {starts[i] + s for i in range(len(grid_thw)) for s in kept[i // repeats]}
    groups = torch.tensor([int(i) not in left for i in tower_order(model, grid_thw)])
    return groups.repeat_interleave(4)


def _same_chunk(cu_seqlens: Tensor) -> Tensor:
    chunk = torch.repeat_interleave(torch.arange(len(cu_seqlens) - 1), cu_seqlens.diff().long())
    return chunk[:, None] == chunk[None]


def packed_attention(
    attention: Any, hidden: Tensor, rope: Any, allowed: Tensor, gone: Tensor | None
) -> Tensor:
    """Qwen's vision attention with an explicit (R, R) mask; `gone` rows are seen by themselves only."""
    r = len(hidden)
    q, k, v = attention.qkv(hidden).view(r, 3, attention.num_heads, -1).permute(1, 2, 0, 3)
    cos, sin = (t.float() for t in rope)

    def turn(x: Tensor) -> Tensor:
        a, b = x.float().chunk(2, -1)
        return (x.float() * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)

    if gone is not None:
        allowed = (allowed & ~gone[None]) | torch.eye(r, dtype=torch.bool)
    logits = (turn(q) @ turn(k).transpose(-1, -2) * attention.scaling).masked_fill(~allowed, float("-inf"))
    return attention.proj((logits.softmax(-1) @ v).transpose(0, 1).reshape(r, -1))
