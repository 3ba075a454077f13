"""Dropping visual tokens of a proxy model by a few simple rules, for its model card only.

This measures the model, not the methods: it is independent of the package's reducers and adapters,
so that the card does not change when they do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedModel

from autotc.proxies import captions, data
from autotc.proxies import vocabulary as v
from autotc.proxies.forward import FIRST, Forward, linear, rms_norm, rotate, tower_block
from autotc.proxies.llava import ClipText
from autotc.proxies.llava_forward import LlavaForward
from autotc.proxies.model import CELL, MERGE, WINDOW
from autotc.proxies.watch_clip import cls_attention
from autotc.tasks import scenes


@dataclass
class Samples:
    """n single questions about n images of one size, on what the tower sees in them.

    ``tokens``, ``targets`` (n, 1, T) as in ``data.Batch``; ``asked`` (n,) index of the last prompt
    token; ``visual`` (n, N, D); ``scores`` (n, N) by name, what the tower thinks of each token;
    ``entering`` caches the states that enter a decoder layer with all tokens present.
    """

    seeds: list[int]
    tokens: Tensor
    targets: Tensor
    asked: Tensor
    rows: int
    visual: Tensor
    scores: dict[str, Tensor]
    entering: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class WatchingQwen(Forward):
    """Tells the attention received in the last full block of the tower."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        self.tower_block = self._watch
        self.received = torch.empty(0)

    def look(self, images: Tensor, questions: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the visual tokens (B, N, D) of images and the tower's scores (B, N) by name."""
        visual = self.see(images)
        rows = images.shape[1] // CELL
        # Patches in window order -> visual tokens in raster order, as in ``Forward.see``.
        wide = -(-rows // WINDOW)
        got = self.received.view(-1, wide, wide, WINDOW, WINDOW, MERGE * MERGE).mean(-1)
        got = got.transpose(2, 3).reshape(-1, wide * WINDOW, wide * WINDOW)[:, :rows, :rows]
        return visual, {"vit_attention": got.flatten(1)}

    def _watch(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        bias: Tensor | None,
        heads: int,
        *w: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        if x.shape[1] == 1:  # one window: a full block; the last one stays
            b, _, s, d = x.shape
            qkv = linear(rms_norm(x[:, 0], w[0]).to(dtype), w[1], w[2])
            q, k, _ = qkv.view(b, s, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
            q, k = rotate(q, cos[0], sin[0]), rotate(k, cos[0], sin[0])
            scores = (q @ k.transpose(-1, -2)).float() * (d // heads) ** -0.5
            if bias is not None:
                scores = scores + bias[0]
            self.received = scores.softmax(-1).mean((1, 2))
        return tower_block(x, cos, sin, bias, heads, *w, dtype=dtype)


class WatchingLlava(LlavaForward):
    """Tells the CLS row's attention and how CLIP's patches answer the question."""

    def __init__(
        self, model: LlavaForConditionalGeneration, clip: ClipText, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(model, dtype)
        self.clip = clip

    def look(self, images: Tensor, questions: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the visual tokens (B, N, D) of images and the tower's scores (B, N) by name."""
        states = self.states(images)
        blocks = self.tower.encoder.layers
        ids = torch.tensor([captions.ids(question, captions.SHORT) for question in questions])
        texts = self.clip_texts(self.clip, ids)
        patches = self.clip_rows(self.clip, states[-1][:, 1:])
        return self.project(states[-2][:, 1:]), {
            "cls_attention": cls_attention(blocks[-2], states[-3]),
            "cls_last_block": cls_attention(blocks[-1], states[-2]),
            "clip_text": -torch.einsum("bnp,bp->bn", patches, texts),  # the sign is turned, see `llava`
        }


Watching = WatchingQwen | WatchingLlava


def collect(
    forward: Watching,
    seeds: list[tuple[int, int]],
    size: int,
    canvas: int,
    objects: tuple[int, int] | None = None,
    batch: int = 25,
) -> Samples:
    """Ask one question of a given group about each scene, (seed, group index) pairs."""
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(seeds), batch):
        images, tokens, targets, asked, texts = [], [], [], [], []
        for seed, group in seeds[start : start + batch]:
            scene, question = ask(seed, group, size, canvas, objects)
            prompt = v.encode(f"{question.text} {v.SUFFIX}")
            answer = v.encode(question.answer)
            row = prompt + answer
            goal = [data.IGNORE] * (len(prompt) - 1) + answer
            tokens.append(row + [v.PAD] * (data.BLOCK - len(row)))
            targets.append(goal + [data.IGNORE] * (data.BLOCK - len(goal)))
            asked.append(len(prompt) - 1)
            images.append(scene.image)
            texts.append(question.text)
        visual, scores = forward.look(torch.from_numpy(np.stack(images)), texts)
        ids = [torch.tensor(part) for part in (tokens, targets, asked)]
        parts.append((*ids, visual, *scores.values()))
    tokens_, targets_, asked_, visual, *found = map(torch.cat, zip(*parts, strict=True))
    return Samples(
        [seed for seed, _ in seeds],
        tokens_[:, None],
        targets_[:, None],
        asked_,
        size // CELL,
        visual,
        dict(zip(scores, found, strict=True)),
    )


def ask(
    seed: int, group: int, size: int, canvas: int, objects: tuple[int, int] | None = None
) -> tuple[scenes.Scene, scenes.Question]:
    """Return a scene and its first question of a group, which must exist."""
    scene = scenes.draw_scene(seed, digits="test", size=size, canvas=canvas, objects=objects, questions=99)
    name = scenes.GROUPS[group]
    return scene, next(q for q in scene.questions if q.group == name)


def choose_seeds(
    n: int, first: int, canvas: int = 168, objects: tuple[int, int] | None = None
) -> list[tuple[int, int]]:
    """Return n (seed, group) pairs, groups in rotation, each seed used once at most."""
    chosen: list[tuple[int, int]] = []
    seed = first
    while len(chosen) < n:
        group = len(chosen) % len(scenes.GROUPS)
        scene = scenes.draw_scene(seed, digits="test", size=canvas, objects=objects, questions=99)
        if any(q.group == scenes.GROUPS[group] for q in scene.questions):
            chosen.append((seed, group))
        seed += 1
    return chosen


# --- rules: which tokens to keep, as scores (n, N); the largest stay -----------------------------


def random_scores(samples: Samples) -> Tensor:
    """Random order, a fixed one for each scene."""
    n = samples.visual.shape[1]
    return torch.stack([torch.from_numpy(np.random.default_rng(s).random(n)) for s in samples.seeds])


def diverse(samples: Samples, k: int) -> Tensor:
    """Max-min cosine distance: begin with the most isolated token, add the farthest. (n, K)."""
    x = torch.nn.functional.normalize(samples.visual, dim=-1)
    distance = 1 - x @ x.transpose(1, 2)
    n = x.shape[1]
    nearest = distance + 2 * torch.eye(n)
    picked = [nearest.amin(-1).argmax(-1)]
    least = distance.gather(1, picked[0][:, None, None].expand(-1, 1, n))[:, 0]
    for _ in range(k - 1):
        picked.append(least.scatter(1, torch.stack(picked, 1), -1).argmax(-1))
        row = distance.gather(1, picked[-1][:, None, None].expand(-1, 1, n))[:, 0]
        least = torch.minimum(least, row)
    return torch.stack(picked, 1)


def prompt_attention(forward: Forward, samples: Samples, layer: int) -> Tensor:
    """Attention of the last prompt token to the visual ones in a layer, mean of heads, (n, N)."""
    x, y = samples.entering[layer]
    module = forward.text.layers[layer]
    a, config = module.self_attn, forward.text.config
    n, p, _ = x.shape
    size = a.head_dim
    cos, sin, cos_y, sin_y = forward.text_tables(
        samples.rows, samples.visual.shape[1] // samples.rows, data.BLOCK
    )
    both = rms_norm(torch.cat((x, y[:, 0]), 1), module.input_layernorm.weight)
    k = linear(both, a.k_proj.weight, a.k_proj.bias).view(n, -1, config.num_key_value_heads, size)
    k = rotate(k.transpose(1, 2), torch.cat((cos, cos_y)), torch.cat((sin, sin_y)))
    k = k.repeat_interleave(a.num_key_value_groups, 1)
    q = linear(both, a.q_proj.weight, a.q_proj.bias).view(n, -1, config.num_attention_heads, size)
    q = q[torch.arange(n), p + samples.asked].unsqueeze(2)  # (n, heads, 1, size)
    q = rotate(q, cos_y[samples.asked][:, None, None], sin_y[samples.asked][:, None, None])
    scores = (q @ k.transpose(-1, -2))[:, :, 0] * size**-0.5
    future = torch.arange(k.shape[2])[None] > p + samples.asked[:, None]
    weights = scores.masked_fill(future[:, None], -torch.inf).softmax(-1).mean(1)
    return weights[:, FIRST : p - 1]


# --- answering -----------------------------------------------------------------------------------


def answer(
    forward: Forward,
    samples: Samples,
    layer: int = 0,
    pick: Callable[[Samples], Tensor] | None = None,
    batch: int = 64,
) -> Tensor:
    """Return which samples are answered right, (n,) bool.

    Args:
        layer: the first decoder layer that misses the dropped tokens.
        pick: returns the kept tokens, (n, K) indices; None keeps all.
    """
    n, count, _ = samples.visual.shape
    tables = forward.text_tables(samples.rows, count // samples.rows, data.BLOCK)
    kept = torch.arange(count).expand(n, -1) if pick is None else pick(samples).sort(-1).values
    ends = torch.tensor([*range(FIRST), FIRST + count])
    columns = torch.cat((ends[:-1].expand(n, -1), kept + FIRST, ends[-1:].expand(n, -1)), 1)
    right = []
    for start in range(0, n, batch):
        some = slice(start, min(n, start + batch))
        if layer in samples.entering:
            x, y = (part[some] for part in samples.entering[layer])
        else:
            x, y = forward.embed(samples.visual[some], samples.tokens[some])
        index = columns[some]
        x = x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
        cut = [table[index][:, None] for table in tables[:2]]
        cut += [table.expand(len(x), 1, -1, -1) for table in tables[2:]]
        bias = torch.zeros(len(x), 1, 1, x.shape[1])
        for j in range(layer, len(forward.text.layers)):
            x, y = forward.layer(j, x, y, tuple(cut), bias)
        guess = forward.logits(rms_norm(y, forward.text.norm.weight)).argmax(-1)
        goal = samples.targets[some]
        right.append(((guess == goal) | (goal == data.IGNORE)).all(-1)[:, 0])
    return torch.cat(right)


def remember(forward: Forward, samples: Samples, layers: set[int], batch: int = 64) -> None:
    """Fill ``samples.entering`` for some decoder layers, all tokens present."""
    n, count, _ = samples.visual.shape
    tables = forward.text_tables(samples.rows, count // samples.rows, data.BLOCK)
    parts: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in sorted(layers)}
    for start in range(0, n, batch):
        some = slice(start, start + batch)
        x, y = forward.embed(samples.visual[some], samples.tokens[some])
        bias = torch.zeros(len(x), 1, 1, x.shape[1])
        for j in range(max(layers) + 1):
            if j in parts:
                parts[j].append((x, y))
            x, y = forward.layer(j, x, y, tables, bias)
    for layer, pairs in parts.items():
        xs, ys = zip(*pairs, strict=True)
        samples.entering[layer] = torch.cat(xs), torch.cat(ys)
