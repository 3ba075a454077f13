"""The numbers of one model: everything cost and search need to know about it, without its weights."""

from __future__ import annotations

import importlib
import math
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class ImageRule:
    """How an image becomes patches and visual tokens.

    Args:
        patch: patch side in pixels.
        merge: patches merged into one token, a side (2 on Qwen-VL, 1 elsewhere).
        fixed: side in pixels when every image is resized to one square (LLaVA-1.5), else None.
        min_pixels, max_pixels: bounds of a dynamic resolution.
    """

    patch: int
    merge: int = 1
    fixed: int | None = None
    min_pixels: int = 0
    max_pixels: int = 0

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return (rows, columns) of visual tokens of an image of width x height pixels."""
        if self.fixed is not None:
            side = self.fixed // self.patch // self.merge
            return side, side
        unit = self.patch * self.merge
        h, w = max(unit, round(height / unit) * unit), max(unit, round(width / unit) * unit)
        if h * w > self.max_pixels:
            beta = math.sqrt(height * width / self.max_pixels)
            h, w = (max(unit, math.floor(side / beta / unit) * unit) for side in (height, width))
        elif h * w < self.min_pixels:
            beta = math.sqrt(self.min_pixels / (height * width))
            h, w = (math.ceil(side * beta / unit) * unit for side in (height, width))
        return h // unit, w // unit

    def within(self, grid: tuple[int, int], tokens: int) -> tuple[int, int]:
        """Return the largest (rows, columns) with the aspect of `grid` that has at most `tokens` visual tokens.

        One side runs over all lengths, the other one is the nearest that keeps the aspect; of equally many tokens
        the truest aspect wins. Where even a thin line is too long the aspect gives way.
        """
        rows, columns = grid
        if rows * columns <= tokens:
            return grid
        near = [(r, max(1, min(columns, math.floor(r * columns / rows + 0.5)))) for r in range(1, rows + 1)]
        near += [(max(1, min(rows, math.floor(c * rows / columns + 0.5))), c) for c in range(1, columns + 1)]
        fitting = [g for g in near if g[0] * g[1] <= tokens] or [(1, 1)]
        return max(fitting, key=lambda g: (g[0] * g[1], -abs(math.log(g[0] * columns / (g[1] * rows))), g))


@dataclass(frozen=True)
class VisionAnatomy:
    """The vision tower.

    Args:
        blocks: transformer blocks of the tower.
        blocks_used: blocks that run into the features (LLaVA leaves the last one out).
        width, heads, mlp: hidden width, attention heads, MLP width.
        mlp_matrices: 2 for a plain MLP, 3 for a gated one.
        prefix: rows before the patches (1 for a CLS row).
        window_patches: patches of an attention window; 0: all blocks see everything.
        full_blocks: 0-based blocks with full attention when there are windows.
        patch_inputs: numbers in one patch as the patch embedding reads it (channels x pixels x frames).
        projector: (in, out) of the projector's matrices, applied once a visual token.
        deep: 0-based blocks whose output goes through a projector of the same shape as well, for the first
            decoder layers (DeepStack).
    """

    blocks: int
    blocks_used: int
    width: int
    heads: int
    mlp: int
    mlp_matrices: int
    prefix: int
    window_patches: int
    full_blocks: tuple[int, ...]
    patch_inputs: int
    projector: tuple[tuple[int, int], ...]
    deep: tuple[int, ...] = ()


@dataclass(frozen=True)
class DecoderAnatomy:
    """The language model: layers, widths, heads, vocabulary. MLPs are gated (three matrices)."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int


@dataclass(frozen=True)
class Anatomy:
    """The numbers of one model.

    Args:
        family: name of its adapter module, e.g. "qwen2_5_vl".
        id: Hugging Face id, alias or folder; what the numbers belong to.
        parameters: number of weights (tied ones counted once).
        bytes_per_parameter: 2 for bf16/fp16 serving.
    """

    family: str
    id: str
    image: ImageRule
    vision: VisionAnatomy
    decoder: DecoderAnatomy
    parameters: int
    bytes_per_parameter: int = 2

    def visual_tokens(self, width: int, height: int) -> int:
        """Return the visual tokens of one image of width x height pixels."""
        rows, columns = self.image.grid(width, height)
        return rows * columns


class _Module(ModuleType):
    """Importing a submodule puts it on the package under its name, where the public function has to be too."""

    def __call__(self, config: Any) -> Anatomy:
        """Return the numbers of a model; see `autotc.adapter.anatomy`."""
        found: Anatomy = importlib.import_module("autotc.adapter").anatomy(config)
        return found


sys.modules[__name__].__class__ = _Module
