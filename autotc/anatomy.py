"""The numbers of one model: everything cost and search need to know about it, without its weights."""

from __future__ import annotations

import importlib
import math
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

Grid = tuple[int, int]


@dataclass(frozen=True)
class Views:
    """What a model makes of one image: tiles for the tower, views for the language model.

    A model with one resolution has one tile and one view of it. Models of any resolution cut an image into tiles;
    the language model sees the tiles, or a base view and a map of all crops.

    Args:
        grids: (rows, columns) of visual tokens of each view, in the order of the prompt.
        tile: (rows, columns) of visual tokens that the tower makes of one tile.
        tiles: how many tiles the tower sees.
        newlines: whether the last column of the last view are newline embeddings, which no tile gives.
    """

    grids: tuple[Grid, ...]
    tile: Grid
    tiles: int = 1
    newlines: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """Visual tokens of each view."""
        return tuple(rows * columns for rows, columns in self.grids)

    @property
    def tokens(self) -> int:
        """Visual tokens of the image."""
        return sum(self.counts)

    def left(self, kept: int) -> list[int]:
        """Return what is left of each view when every tile keeps `kept` tokens, newline embeddings all of theirs.

        Of a map without its padding it is the expected number: which tokens go depends on the image.
        """
        tile, out = self.tile[0] * self.tile[1], []
        for i, (rows, columns) in enumerate(self.grids):
            fixed = rows if self.newlines and i == len(self.grids) - 1 else 0
            out.append(math.floor((rows * columns - fixed) * kept / tile + 0.5) + fixed)
        return out


@dataclass(frozen=True)
class CropMap:
    """How the tokens of an image's crops stand in one map.

    Args:
        side: tokens a side of a tile.
        tiles: (rows, columns) of crops.
        top, left: rows and columns of padding cut off above and on the left; as many below and on the right.
        rows, columns: of what is left, after it was scaled down.
    """

    side: int
    tiles: Grid
    top: int
    left: int
    rows: int
    columns: int

    @property
    def inner(self) -> Grid:
        """(rows, columns) of what is left before it is scaled down."""
        return self.side * self.tiles[0] - 2 * self.top, self.side * self.tiles[1] - 2 * self.left


def crop_map(width: int, height: int, side: int, tiles: Grid, most: int = 0) -> CropMap:
    """Return the map of the crops of an image of width x height pixels.

    The image was fitted into the crops and centred, so that one direction may hold padding, which is cut off.
    A map of more than 1.21 times `most` tiles is scaled down to `most` (0: never).
    """
    rows, columns = side * tiles[0], side * tiles[1]
    top = left = 0
    if width / height > columns / rows:
        top = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        left = (columns - int(round(width * (rows / height), 7))) // 2
    rows, columns = rows - 2 * top, columns - 2 * left
    ratio = math.sqrt(rows * columns / (most * side**2)) if most else 0.0
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return CropMap(side, tiles, top, left, rows, columns)


@dataclass(frozen=True)
class ImageRule:
    """How an image becomes patches and visual tokens.

    Args:
        patch: patch side in pixels.
        merge: patches merged into one token, a side (2 on Qwen-VL, 1 elsewhere).
        fixed: side in pixels when every image, or every tile, is resized to one square (LLaVA), else None.
        min_pixels, max_pixels: bounds of a dynamic resolution.
        pinpoints: (height, width) in pixels of the sizes to which an image may be resized before it is cut into
            tiles; none: it isn't cut.
        most_tiles: tiles beyond which the map of the crops is scaled down; 0: never.
        alone: only an image that is alone in its prompt is cut into tiles.
        cut: most tiles that an image is cut into where each is a view of its own, with one of the whole image
            behind them when they are several (InternVL); 0: it isn't cut.
    """

    patch: int
    merge: int = 1
    fixed: int | None = None
    min_pixels: int = 0
    max_pixels: int = 0
    pinpoints: tuple[Grid, ...] = ()
    most_tiles: int = 0
    alone: bool = False
    cut: int = 0

    def views(self, width: int, height: int, images: int = 1) -> Views:
        """Return what the model makes of an image of width x height pixels, one of `images` in its prompt."""
        tile = self.grid(width, height)
        if self.cut:
            columns, rows = self.canvas(width, height)
            tiles = columns * rows + (columns * rows > 1)
            return Views((tile,) * tiles, tile, tiles)
        if not self.pinpoints:
            return Views((tile,), tile)
        crops = self.crops(width, height, images)
        if crops is None:
            return Views((tile, (1, 1)), tile, 1, newlines=True)
        tiles = 1 + crops.tiles[0] * crops.tiles[1]
        if not crops.rows:  # an image so flat that not one row of patches is without padding
            return Views((tile,), tile, tiles)
        return Views((tile, (crops.rows, crops.columns + 1)), tile, tiles, newlines=True)

    def canvas(self, width: int, height: int) -> Grid:
        """Return the (columns, rows) of at most `cut` tiles whose aspect is nearest to that of the image.

        Of several with that aspect it is the one with most tiles that hold less than twice the image's pixels.
        """
        aspect, side = width / height, self.fixed or 1
        sides = range(1, self.cut + 1)
        found = [(c, r) for c in sides for r in sides if c * r <= self.cut]
        nearest = min(abs(aspect - c / r) for c, r in found)
        fitting = sorted((g for g in found if abs(aspect - g[0] / g[1]) == nearest), key=math.prod)
        roomy = [g for g in fitting[1:] if width * height > 0.5 * side**2 * math.prod(g)]
        return (roomy or fitting[:1])[-1]

    def crops(self, width: int, height: int, images: int = 1) -> CropMap | None:
        """Return the map of an image's crops; None where it has none."""
        if not self.pinpoints or self.fixed is None or (self.alone and images > 1):
            return None

        def fit(size: Grid) -> tuple[int, int]:
            """The pixels of the image that are seen at a size, and the area that stays empty."""
            scale = min(size[1] / width, size[0] / height)
            seen = min(int(width * scale) * int(height * scale), width * height)
            return seen, seen - size[0] * size[1]

        best = max(self.pinpoints, key=fit)  # the first of equals
        tiles = best[0] // self.fixed, best[1] // self.fixed
        return crop_map(width, height, self.fixed // self.patch, tiles, self.most_tiles)

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Return (rows, columns) of visual tokens of an image, or of one tile of it, of width x height pixels."""
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

    def visual_tokens(self, width: int, height: int, images: int = 1) -> int:
        """Return the visual tokens of one image of width x height pixels, one of `images` in its prompt."""
        return self.image.views(width, height, images).tokens


def block_at(place: str, blocks: int, used: int, cls_row: bool) -> int:
    """Return the 0-based tower block that a signal behind the tower comes from.

    Args:
        place: "first", "early" (a quarter of the depth), "middle" (3/8 of it with a CLS row, half without), "last"
            (that makes the features) or "final" (the tower's very last, which LLaVA leaves out of the features).
        blocks: of the tower.
        used: blocks that run into the features.
        cls_row: whether a CLS row stands before the patches.
    """
    if place == "final":
        return blocks - 1
    middle = blocks * 3 // 8 if cls_row else blocks // 2
    found = {"first": 0, "early": blocks // 4 - 1, "middle": middle - 1, "last": blocks}[place]
    return max(0, min(found, used - 1))


class _Module(ModuleType):
    """Importing a submodule puts it on the package under its name, where the public function has to be too."""

    def __call__(self, config: Any) -> Anatomy:
        """Return the numbers of a model; see `autotc.adapter.anatomy`."""
        found: Anatomy = importlib.import_module("autotc.adapter").anatomy(config)
        return found


sys.modules[__name__].__class__ = _Module
