"""Downsampling: fewer pixels in, so fewer tokens everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from autotc.anatomy import ImageRule
from autotc.assignment import Assignment, merge
from autotc.reducer import Budget, Preset, PresetStage, Reducer, Source, TokenView, budgets


@dataclass(frozen=True)
class Downsample(Reducer):
    """Show the model a smaller image: the largest grid of the image's own shape within the budget.

    The image processor does the work, before any token exists. `assign` is the same reduction as seen by
    tokens: it averages the cells of the original grid that fall into one cell of the smaller grid.

    Source: baseline; why it belongs into every comparison: Are We Using the Right Benchmark: An Evaluation
        Framework for Visual Token Compression Methods, arXiv 2510.07143.
    Differs: nothing to differ from.
    Cost: less than none, the vision tower gets fewer patches.
    """

    name: ClassVar[str] = "downsample"
    title: ClassVar[str] = "Smaller images"
    source: ClassVar[Source] = Source("Baseline: image resolution")
    fidelity: ClassVar[Literal["faithful", "adapted", "reconstruction", "own"]] = "own"
    sites: ClassVar[tuple[str, ...]] = ("input",)
    adaptive: ClassVar[bool] = True
    presets: ClassVar[tuple[Preset, ...]] = (
        Preset("downsample", lambda anatomy: (PresetStage("input", 1 / 3),), note="a third of the pixels"),
    )

    def assign(self, view: TokenView, budget: Budget) -> Assignment:
        wanted = budgets(view, budget).tolist()
        target = torch.full_like(view.source, -1)
        for row, (t, h, w) in enumerate(view.grids):
            real, frames = int(view.valid[row].sum()), min(t, wanted[row])
            if frames == 0:
                continue
            rows, columns = ImageRule(patch=1).within((h, w), wanted[row] // frames)
            source = view.source[row, :real]
            frame, rest = source // (h * w) * frames // t, source % (h * w)
            cell = (frame * rows + rest // w * rows // h) * columns + rest % w * columns // w
            # a cell's tokens go to the first of them
            first = torch.full((frames * rows * columns,), real, device=source.device)
            first.scatter_reduce_(0, cell, torch.arange(real, device=source.device), reduce="amin")
            target[row, :real] = first[cell]
        return merge(target)
