"""Which things a question is about: the language model of ``llava-tiny`` learns to look there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from autotc.proxies import data
from autotc.proxies.forward import rms_norm
from autotc.proxies.llava_forward import LlavaForward
from autotc.proxies.model import CELL
from autotc.tasks.scenes import COLORS, Question, Scene, Thing

_COLORS = tuple(COLORS)


def asked_about(question: Question, scene: Scene) -> list[Thing]:
    """Return the things that a question names or describes; none if it is about many or the tag."""
    words = question.text.split()
    if question.group in ("digit_by_color", "shape_by_color"):
        return [t for t in scene.things if (t.kind, t.color) == (words[1], words[3])]
    if question.group in ("color_of_digit", "color_of_shape", "where", "relation"):
        return [t for t in scene.things if t.name == words[-2]]
    if question.group == "exist":
        return [t for t in scene.things if (t.color, t.name) == (words[3], words[4])]
    return []


def answered_by(question: Question, scene: Scene) -> list[Thing]:
    """Return the thing that is the answer of a question on what is beside another; else none."""
    if question.group != "relation":
        return []
    words = question.text.split()
    (anchor,) = asked_about(question, scene)
    axis = int(words[3] in ("above", "below"))
    sign = -1 if words[3] in ("left", "above") else 1
    return [
        t for t in scene.things if t.kind == words[1] and sign * (t.center[axis] - anchor.center[axis]) > 0
    ]


def cells(things: list[Thing], rows: int, cols: int) -> Tensor:
    """Return which visual tokens (N,) show the things, by their middles and those of the things."""
    covered = torch.zeros(rows, cols, dtype=torch.bool)
    y, x = (torch.arange(rows) + 0.5) * CELL, (torch.arange(cols) + 0.5) * CELL
    for thing in things:
        x0, y0, x1, y1 = thing.box
        covered |= ((y > y0) & (y < y1))[:, None] & (x > x0) & (x < x1)
        cx, cy = thing.center
        covered[int(cy // CELL), int(cx // CELL)] = True
    return covered.flatten()


def color_loss(forward: LlavaForward, scenes: list[Scene], batch: data.Batch) -> Tensor:
    """Return the loss of knowing, where the answer is given, which colour the question names.

    The state that enters the first layer of ``LlavaForward.middle`` is read by a fixed random matrix.
    Without this the language model learns to gather names from the question, but not colours.
    """
    goal = torch.full(batch.groups.shape, -1)
    for i, scene in enumerate(scenes):
        for k, question in enumerate(scene.questions):
            named = [_COLORS.index(word) for word in question.text.split() if word in _COLORS]
            if named:
                goal[i, k] = named[0]
    if forward.middle[0] not in forward.entering:
        return torch.zeros(())  # a small model may lack the layer
    y = forward.entering[forward.middle[0]][1]
    asking = (batch.targets != data.IGNORE).int().argmax(-1)
    y = y.gather(2, asking[..., None, None].expand(-1, -1, 1, y.shape[-1]))[:, :, 0]
    size = y.shape[-1]
    readout = torch.randn(size, len(_COLORS), generator=torch.Generator().manual_seed(0)) * size**-0.5
    logits = rms_norm(y, torch.ones(size, device=y.device)) @ readout.to(y.device)
    goal = goal.to(y.device)
    return F.cross_entropy(4 * logits[goal >= 0], goal[goal >= 0])


def pointing_loss(forward: LlavaForward, scenes: list[Scene], batch: data.Batch) -> Tensor:
    """Return the loss of attending to what is asked about, then to the answer, after ``forward.read``.

    It is that of the first head in the first and the second layer of ``LlavaForward.middle``, for the
    token that gives the answer. Finding a thing by its colour is learned very late without.
    """
    rows, cols = batch.rows, batch.images.shape[2] // CELL
    asking = (batch.targets != data.IGNORE).int().argmax(-1)
    total = torch.zeros((), device=batch.images.device)
    for j, about in zip(forward.middle, (asked_about, answered_by), strict=True):
        if j not in forward.entering:
            continue  # a small model may lack the layer
        goal = torch.zeros(*asking.shape, rows * cols, dtype=torch.bool)
        for i, scene in enumerate(scenes):
            for k, question in enumerate(scene.questions):
                goal[i, k] = cells(about(question, scene), rows, cols)
        goal = goal.to(total.device)
        some = goal.any(-1)
        found = forward.point(j, rows, cols, asking)[some].masked_fill(~goal[some], -1e9)
        total = total - found.logsumexp(-1).sum() / max(1, int(some.sum()))
    return total
