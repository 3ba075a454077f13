"""What the CLIP half of ``llava-tiny`` has learned, on scenes with unseen handwriting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autotc.proxies import captions, data
from autotc.proxies.llava import ClipText
from autotc.proxies.llava_forward import LlavaForward, layer_norm, linear
from autotc.proxies.model import CELL
from autotc.tasks.scenes import Scene, Thing

_NAMES = (
    "retrieval",  # images whose own caption is nearest among a batch and its wrong captions
    "wrong_refused",  # images nearer to the right caption than to the one with an error
    "names",  # patches on a thing that are named right
    "colors",
    "tag_digits",  # tag digits read right, with their place
    "on_things",  # share of all patches on a thing or tag: what random picking finds
    "cls_feature",  # the same among the quarter of patches with most of the CLS row's attention, block before the last
    "cls_last",  # in the last block
    "phrase_top",  # phrases whose farthest patch is on the thing they speak of
    "phrase_base",  # share of all patches that are on it
)


class Watch:
    """Sums figures over batches of square scenes of one size.

    Args:
        forward, clip: the models.
        dense: the helper that names patches; None leaves those figures out.
    """

    def __init__(self, forward: LlavaForward, clip: ClipText, dense: nn.Module | None) -> None:
        self.forward, self.clip, self.dense = forward, clip, dense
        self.sums = torch.zeros(2, len(_NAMES))

    @torch.no_grad()
    def add(self, drawn: list[Scene], seed: int) -> None:
        """Look at some scenes; ``seed`` chooses what is said about them."""
        batch, texts = data.pack(drawn), captions.write(drawn, seed)
        device = self.clip.logit_scale.device
        *_, entering, before, after = self.forward.states(batch.images.to(device))
        rows = self.forward.clip_rows(self.clip, after).cpu()
        said = torch.cat((texts.captions, texts.wrong)).to(device)
        said = self.forward.clip_texts(self.clip, said).cpu()
        scores, goal = rows[:, 0] @ said.T, torch.arange(len(rows))
        self._count("retrieval", scores.argmax(-1) == goal)
        self._count("wrong_refused", scores[goal, goal] > scores[goal, goal + len(goal)])
        if self.dense is not None:
            guesses = self.dense(before[:, 1:])[..., : sum(data.DENSE)].cpu().split(data.DENSE, -1)
            for k, name in enumerate(("names", "colors", "tag_digits", "tag_digits")):
                there = batch.dense[..., k] > 0
                self._count(name, (guesses[k].argmax(-1) == batch.dense[..., k])[there])
        covered = torch.stack([on_things(scene) for scene in drawn])
        self._count("on_things", covered)
        *_, second, last = self.forward.tower.encoder.layers
        for name, block, x in (("cls_feature", second, entering), ("cls_last", last, before)):
            top = cls_attention(block, x).cpu().topk(covered.shape[1] // 4, -1).indices
            self._count(name, covered.gather(1, top))
        self._phrases(drawn, seed, rows[:, 1:])

    def _phrases(self, drawn: list[Scene], seed: int, patches: Tensor) -> None:
        for i, scene in enumerate(drawn):
            for k, thing in enumerate(scene.things):
                words = (
                    f"what color is the {thing.name} ?",
                    f"what {thing.kind} is {thing.color} ?",
                    f"where is the {thing.name} ?",
                )
                which = (seed + i + k) % 3
                same = [
                    t
                    for t in scene.things
                    if (
                        t.name == thing.name if which != 1 else (t.kind, t.color) == (thing.kind, thing.color)
                    )
                ]
                ids = torch.tensor([captions.ids(words[which], captions.SHORT)])
                text = self.forward.clip_texts(self.clip, ids.to(self.clip.logit_scale.device)).cpu()
                there = torch.stack([on_thing(t, scene.image.shape[0] // CELL) for t in same]).any(0)
                self._count("phrase_top", there[(patches[i] @ text[0]).argmin()][None])
                self._count("phrase_base", there)

    def _count(self, name: str, right: Tensor) -> None:
        k = _NAMES.index(name)
        self.sums[0, k] += right.sum()
        self.sums[1, k] += right.numel()

    def result(self) -> dict[str, float]:
        """Return the figures so far."""
        return {
            name: round((right / count).item(), 4)
            for name, right, count in zip(_NAMES, *self.sums, strict=True)
            if count
        }


def cls_attention(block: Any, x: Tensor) -> Tensor:
    """Return the CLS row's attention to the patches, mean of heads, (B, N), of rows x (B, S, D)."""
    a = block.self_attn
    h = layer_norm(x, block.layer_norm1.weight, block.layer_norm1.bias)
    b, s, d = x.shape
    q = linear(h[:, :1], a.q_proj.weight, a.q_proj.bias).view(b, 1, a.num_heads, -1).transpose(1, 2)
    k = linear(h, a.k_proj.weight, a.k_proj.bias).view(b, s, a.num_heads, -1).transpose(1, 2)
    weights = (q @ k.transpose(-1, -2) * (d // a.num_heads) ** -0.5).softmax(-1)
    return weights[:, :, 0, 1:].mean(1)


def on_thing(thing: Thing, side: int = 12) -> Tensor:
    """Return which patches (N,) a thing's box covers by their middle, or holds its middle."""
    return _covered([thing.box], side)


def on_things(scene: Scene) -> Tensor:
    """Return which patches (N,) show a thing or the tag."""
    boxes = [thing.box for thing in scene.things]
    return _covered(boxes if scene.tag is None else [*boxes, scene.tag.box], scene.image.shape[0] // CELL)


def _covered(boxes: list[tuple[float, float, float, float]], side: int) -> Tensor:
    middle = (torch.arange(side) + 0.5) * CELL
    covered = torch.zeros(side, side, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        inside = (middle > y0) & (middle < y1), (middle > x0) & (middle < x1)
        covered |= inside[0][:, None] & inside[1]
        covered[int((y0 + y1) / 2 // CELL), int((x0 + x1) / 2 // CELL)] = True
    return covered.flatten()
