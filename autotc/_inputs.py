"""Site `input`: a processor that shows the model smaller images, and remembers how large they were.

The processor's class is exchanged for a subclass while a policy is attached, so that the user's own object is
the one that resizes. Budgets of later stages are fractions of the original number of tokens: it is looked up
by the prompt's tokens when the model is called, because nothing else of an input survives devices and dtypes
unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from autotc.anatomy import ImageRule
from autotc.errors import DataError, UnsupportedError
from autotc.policy import Stage

_Key = tuple[int, ...]


def resized(rule: ImageRule, stage: Stage, width: int, height: int) -> tuple[int, tuple[int, int]]:
    """Return the original number of tokens of an image, or of each of its tiles, and the (rows, columns) of tokens it
    is shown with.
    """
    grid = rule.grid(width, height)
    original = grid[0] * grid[1]
    return original, rule.within(grid, stage.tokens(original))


class WrappedProcessor:
    """Wraps a processor in place until `remove`.

    Args:
        processor: called with `images` and `text`; Hugging Face's, or `autotc.processing.Processor`.
        stage: the `input` stage.
        rule: how the model's images become tokens.
        image_token: id of the placeholder.
    """

    def __init__(self, processor: Any, stage: Stage, rule: ImageRule, image_token: int) -> None:
        self.processor, self.stage, self.rule, self.image_token = processor, stage, rule, image_token
        self._known: dict[_Key, list[tuple[int, ...]]] = {}
        self._class = type(processor)
        outer = self

        def call(processor: Any, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
            return outer._call(processor, images, text, kwargs)

        processor.__class__ = type(self._class.__name__, (self._class,), {"__call__": call})

    def remove(self) -> None:
        """Give the processor its own class back."""
        self.processor.__class__ = self._class

    def _call(self, processor: Any, images: Any, text: Any, kwargs: dict[str, Any]) -> Any:
        flat = _flat(images)
        if not flat:
            return self._class.__call__(processor, images=images, text=text, **kwargs)
        sizes = [resized(self.rule, self.stage, *picture.size) for picture in flat]
        unit = self.rule.patch * self.rule.merge
        if self.rule.cut:  # smaller tiles, in the arrangement of the large ones
            side = sizes[0][1][0] * unit
            canvases = [self.rule.canvas(*picture.size) for picture in flat]
            smaller = (_shrunk(p, (c * side, r * side)) for p, (c, r) in zip(flat, canvases, strict=True))
            images, kwargs = _rebuilt(images, smaller), {**kwargs, "size": {"height": side, "width": side}}
            views = (len(self.rule.views(*picture.size).grids) for picture in flat)
            sizes = [one for one, n in zip(sizes, views, strict=True) for _ in range(n)]
        elif self.rule.fixed is not None:
            side = sizes[0][1][0] * unit
            kwargs = {
                **kwargs,
                "size": {"shortest_edge": side},
                "crop_size": {"height": side, "width": side},
            }
        else:
            smaller = (_shrunk(p, (c * unit, r * unit)) for p, (_, (r, c)) in zip(flat, sizes, strict=True))
            images = _rebuilt(images, smaller)
            # the smallest size that is allowed must not blow a small grid up again
            kwargs = {**kwargs, "size": {"shortest_edge": unit**2, "longest_edge": self.rule.max_pixels}}
        out = self._class.__call__(processor, images=images, text=text, **kwargs)
        self._remember(out, sizes)
        return out

    def _remember(self, out: Any, sizes: Sequence[tuple[int, tuple[int, int]]]) -> None:
        left = iter((original, rows * columns) for original, (rows, columns) in sizes)
        self._known = {}
        for key, tokens in _rows(out["input_ids"], out.get("attention_mask"), self.image_token):
            mine = []
            while tokens > 0:
                original, shown = next(left)
                tokens -= shown
                mine.append(original)
            self._known.setdefault(key, []).append(tuple(mine))

    def originals(self, ids: Tensor, mask: Tensor | None) -> list[int] | None:
        """Return the original tokens of each image of some prompts, or None where a prompt was not made here.

        Raises:
            UnsupportedError: equal prompts were made for images of different sizes and can't be told apart.
        """
        rows = [key for key, tokens in _rows(ids, mask, self.image_token) if tokens]
        asked, used = Counter(rows), Counter[_Key]()
        out: list[int] = []
        for key in rows:
            known = self._known.get(key)
            if known is None:
                return None
            if asked[key] != len(known) and len(set(known)) > 1:
                raise UnsupportedError(
                    "compress: equal prompts with images of different original sizes can't be told apart; "
                    "call the model with the batch as the processor made it"
                )
            out += known[used[key] * len(known) // asked[key]]
            used[key] += 1
        return out


def _rows(ids: Any, mask: Any, image_token: int) -> list[tuple[_Key, int]]:
    """Return each prompt without its padding, and how many image tokens it has."""
    rows = ids.tolist() if isinstance(ids, Tensor) else [list(row) for row in ids]
    masks = [[1] * len(row) for row in rows] if mask is None else [list(map(int, m)) for m in mask]
    keys = [
        tuple(i for i, real in zip(row, m, strict=True) if real) for row, m in zip(rows, masks, strict=True)
    ]
    return [(key, key.count(image_token)) for key in keys]


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return [picture for item in images for picture in _flat(item)]
    if not hasattr(images, "resize") or not hasattr(images, "size") or callable(images.size):
        raise DataError(f"compress: an 'input' stage resizes PIL images, not {type(images).__name__}")
    return [images]


def _rebuilt(images: Any, pictures: Any) -> Any:
    if isinstance(images, list | tuple):
        return [_rebuilt(item, pictures) for item in images]
    return next(pictures)


def _shrunk(picture: Any, size: tuple[int, int]) -> Any:
    from PIL import Image

    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
