"""Losses and grading that the trainings of all proxy models share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from autotc.proxies import data
from autotc.tasks.scenes import GROUPS


def dense_loss(head: Callable[[Tensor], Tensor], visual: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of naming what each visual token shows; empty tokens weigh little.

    Args:
        head: maps visual tokens (B, N, D) to the logits of all classes in ``data.DENSE``.
        visual: (B, N, D).
        labels: (B, N, 4) as in ``data.Batch``.
    """
    parts = head(visual).split(data.DENSE, -1)
    total = visual.new_zeros(())
    for part, label, empty in zip(parts, labels.unbind(-1), (0.15, 0.15, 0.03, 0.03), strict=True):
        weight = torch.ones(part.shape[-1], device=part.device)
        weight[0] = empty
        total = total + F.cross_entropy(part.flatten(0, 1), label.flatten(), weight)
    return total


def place_loss(
    heads: Iterable[Callable[[Tensor], Tensor]],
    states: Iterable[Tensor],
    rows: int,
    relative: bool = False,
) -> Tensor:
    """Return the squared error of telling where each visual token (B, N, D) is, summed over the states.

    Without it a visual token learns its place in the image, and the model the questions that need
    it, very late. Places are counted in tokens, or with ``relative`` from -1 to 1 in any image.
    """
    total = torch.zeros(())
    for head, x in zip(heads, states, strict=False):  # a small model may lack a layer
        cell, columns = torch.arange(x.shape[1], device=x.device), x.shape[1] // rows
        goal = torch.stack((cell // columns, cell % columns), -1)
        half = torch.tensor((rows - 1, columns - 1) if relative else (12, 12), device=x.device) / 2
        total = total.to(x.device) + (head(x) - (goal / half - 1)).pow(2).mean()
    return total


def answer_loss(logits: Tensor, batch: data.Batch) -> Tensor:
    """Return the weighted cross-entropy of the answer tokens and the end after them.

    Args:
        logits: (asked tokens, vocabulary), only where ``batch.targets`` asks for one.
        batch: see ``data.Batch``.
    """
    asked = batch.targets != data.IGNORE
    weights = batch.weights[asked]
    loss = F.cross_entropy(logits, batch.targets[asked], reduction="none")
    return (loss * weights).sum() / weights.sum()


def grade(logits: Tensor, batch: data.Batch) -> Tensor:
    """Return right answers and questions by group, (2, groups), of logits (B, Q, T, vocabulary)."""
    graded = (batch.targets != data.IGNORE) & (batch.weights > 0.11)  # the end is not graded
    right = ((logits.argmax(-1) == batch.targets) | ~graded).all(-1).cpu()
    count = torch.zeros(2, len(GROUPS))
    for g in range(len(GROUPS)):
        mine = batch.groups.cpu() == g
        count[0, g] += right[mine].sum()
        count[1, g] += mine.sum()
    return count


def shares(count: Tensor, name: str) -> dict[str, float]:
    """Return accuracy in all, under ``name``, and by group, from the sums of ``grade``."""
    by_group = (count[0] / count[1]).tolist()
    return {name: (count[0].sum() / count[1].sum()).item()} | {
        group: round(x, 3) for group, x in zip(GROUPS, by_group, strict=True)
    }
