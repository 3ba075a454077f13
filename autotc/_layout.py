"""Which tokens of a prompt are where, as a prefill gets shorter, and the attention masks that follow from
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from autotc import kernels
from autotc.assignment import Assignment

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Images:
    """The visual tokens of a prefill, one row an image, padded on the right.

    Where an image becomes tiles of any resolution a row is one of its views (`autotc._views`).

    Args:
        sample: (I,) int64, the prompt of each row.
        ordinal: (I,) int64, which row of its prompt it is.
        group: (I,) int64, the image: rows of one image have the same number, counted over all prompts.
        end: (I,) int64, prompt column of the row's last placeholder.
        place: (I, N) int64, where each token stands in the current sequence.
        valid: (I, N) bool.
        source: (I, N) int64, the token's index in its row.
        size: (I, N) float, how many originals it stands for.
        original: tokens of each row before any stage, an `input` stage included; budgets are fractions of
            it.
        grids: (t, h, w) of each row as it entered the tower, or of the view.
    """

    sample: Tensor
    ordinal: Tensor
    group: Tensor
    end: Tensor
    place: Tensor
    valid: Tensor
    source: Tensor
    size: Tensor
    original: list[int]
    grids: list[Grid]

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def rows(self) -> Tensor:
        """(I, N) the prompt of each token, for indexing together with `place`."""
        return self.sample[:, None].expand_as(self.place)

    @property
    def picture(self) -> Tensor:
        """(I,) which image of its prompt a row belongs to."""
        first = torch.arange(len(self), device=self.group.device) - self.ordinal
        return self.group - self.group[first]

    def take(self, sequence: Tensor) -> Tensor:
        """Return the visual tokens (I, N, D) of a sequence (B, S, D); padding is zero."""
        return sequence[self.rows, self.place] * self.valid[..., None].to(sequence.dtype)

    def narrowed(self, assignment: Assignment) -> Images:
        """Return what is left after an assignment; places are still those before it."""
        anchors = assignment.anchors
        return replace(
            self,
            place=self.place.gather(1, anchors),
            valid=assignment.valid,
            source=self.source.gather(1, anchors),
            size=assignment.sizes(self.size),
        )


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of the sequence that one decoder layer sees.

    Args:
        slots: (B, S) int64, prompt column of each row (0 for filler rows).
        valid: (B, S) bool, False for padding and filler.
        images: the visual tokens among the rows.
        index: (B, S) int64, where each row stood when the language model was entered.
        positions: (B, S) int64 rotary positions of the rows after a cut that renumbers, else None: as given.
        next: (B,) int64, the position of the first token after the prompt.
    """

    slots: Tensor
    valid: Tensor
    images: Images
    index: Tensor
    positions: Tensor | None = None
    next: Tensor | None = None
    cached: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def length(self) -> int:
        return self.slots.shape[1]

    def last(self) -> Tensor:
        """(B,) where the last prompt token stands."""
        columns = torch.arange(self.length, device=self.valid.device)
        return (self.valid * columns).argmax(1)

    def text_rows(self) -> tuple[Tensor, Tensor]:
        """Return where the text tokens behind each image stand, (I, T), and which of them are real, (I,
        T).
        """
        if "text" in self.cached:
            found: tuple[Tensor, Tensor] = self.cached["text"]
            return found
        visual = torch.zeros_like(self.valid)
        visual[self.images.rows[self.images.valid], self.images.place[self.images.valid]] = True
        text = (self.valid & ~visual)[self.images.sample]
        text = text & (self.slots[self.images.sample] > self.images.end[:, None])
        most = int(text.sum(1).max()) if len(text) else 0
        order = torch.argsort((~text).to(torch.int8), dim=1, stable=True)[:, :most]
        self.cached["text"] = (order, text.gather(1, order))
        return order, text.gather(1, order)

    def prefill_mask(self, eager: bool, dtype: torch.dtype) -> Tensor | None:
        """Return the causal mask of this layout: None where the kernel's own causal rule is right.

        A filler row sees itself, so that no row of the softmax is empty; nobody sees it.
        """
        key = ("prefill", eager, dtype)
        if key not in self.cached:
            mask = None
            if eager or not bool(self.valid.all()):
                n, device = self.length, self.valid.device
                causal = torch.ones(n, n, dtype=torch.bool, device=device).tril()
                seen = causal & self.valid[:, None, None, :]
                seen = seen | torch.eye(n, dtype=torch.bool, device=device)
                mask = _additive(seen, dtype) if eager else seen
            self.cached[key] = mask
        known: Tensor | None = self.cached[key]
        return known

    def decode_mask(self, before: int, new: int, eager: bool, dtype: torch.dtype) -> Tensor | None:
        """Return the mask of `new` tokens that follow the prompt and `before` earlier ones."""
        if new == 1 and bool(self.valid.all()):
            return None
        device = self.valid.device
        old = torch.ones(len(self.valid), before, dtype=torch.bool, device=device)
        seen = torch.cat([self.valid, old], 1)[:, None, None, :].expand(-1, 1, new, -1)
        causal = torch.ones(new, new, dtype=torch.bool, device=device).tril().expand(len(seen), 1, new, new)
        seen = torch.cat([seen, causal], -1)
        return _additive(seen, dtype) if eager else seen


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen, zero, torch.finfo(dtype).min)


def read_prompt(
    input_ids: Tensor,
    mask: Tensor | None,
    image_token: int,
    grids: Sequence[Grid],
    original: Sequence[int] | None,
    groups: Sequence[int] | None = None,
) -> Layout:
    """Return the layout of whole prompts: placeholders in (batch, column) order belong to the images, or
    to their views, in order; rows with the same number in `groups` are views of one image.
    """
    b, n = input_ids.shape
    device = input_ids.device
    valid = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    columns = torch.arange(n, device=device).expand(b, n)
    rows, places = (input_ids == image_token).nonzero(as_tuple=True)
    counts = torch.tensor([t * h * w for t, h, w in grids], dtype=torch.long)
    if int(counts.sum()) != len(places):
        raise ValueError(f"{len(places)} image placeholders for images of {int(counts.sum())} tokens")
    starts = (counts.cumsum(0) - counts).tolist()
    most = int(counts.max()) if len(counts) else 0
    place = torch.zeros(len(grids), most, dtype=torch.long, device=device)
    inside = torch.arange(most)[None] < counts[:, None]
    place[inside.to(device)] = places
    sample = rows[torch.tensor(starts, dtype=torch.long, device=device)]
    ordinal = torch.zeros_like(sample)
    for i in range(1, len(sample)):
        ordinal[i] = torch.where(sample[i] == sample[i - 1], ordinal[i - 1] + 1, 0)
    group = torch.arange(len(sample), device=device)
    if groups is not None and groups:
        number = torch.tensor(groups, device=device)
        # beams repeat the images of a prompt: the same number in another prompt is another image
        other = (number.diff() != 0) | (sample.diff() != 0)
        group = torch.nn.functional.pad(other.long().cumsum(0), (1, 0))
    inside = inside.to(device)
    images = Images(
        sample=sample,
        ordinal=ordinal,
        group=group,
        end=place.amax(1) if most else sample,
        place=place,
        valid=inside,
        source=torch.where(inside, torch.arange(most, device=device), 0),
        size=inside.float(),
        original=list(original) if original is not None else counts.tolist(),
        grids=list(grids),
    )
    return Layout(columns, valid, images, columns)


def linked(layout: Layout) -> Layout:
    """Return the layout with rows linked whose placeholders stand next to one another: tiles of one image."""
    images = layout.images
    apart = (images.place[1:, 0] != images.end[:-1] + 1) | (images.sample.diff() != 0)
    group = torch.nn.functional.pad(apart.long().cumsum(0), (1, 0))
    return replace(layout, images=replace(images, group=group))


def shorten(layout: Layout, assignment: Assignment, renumber: bool) -> tuple[Layout, Tensor]:
    """Return the layout after an assignment and, for each of its rows, where it stood before, (B, S').

    Rows keep their order; shorter prompts get filler rows on the left, and padding is dropped first.
    """
    images = layout.images
    left = images.narrowed(assignment)
    keep = layout.valid.clone()
    keep[images.rows[images.valid], images.place[images.valid]] = False
    keep[left.rows[left.valid], left.place[left.valid]] = True
    longest = int(keep.sum(1).max())
    index = torch.argsort(keep.to(torch.int8), dim=1, stable=True)[:, layout.length - longest :]
    valid = keep.gather(1, index)
    moved = torch.zeros_like(layout.slots)
    moved.scatter_(1, index, torch.arange(longest, device=index.device).expand_as(index))
    left = replace(left, place=torch.where(left.valid, moved[left.rows, left.place], 0))
    after = Layout(
        slots=torch.where(valid, layout.slots.gather(1, index), 0),
        valid=valid,
        images=left,
        index=layout.index.gather(1, index),
        positions=(valid.cumsum(1) - 1).clamp_min(0) if renumber else None,
        next=valid.sum(1) if renumber else layout.next,
    )
    return after, index


def move(sequence: Tensor, layout: Layout, assignment: Assignment, after: Layout, index: Tensor) -> Tensor:
    """Return the sequence (B, S', D) after `shorten`: rows gathered, merged rows put in their places."""
    (out,) = kernels.gather_rows([sequence], index)
    if not assignment.one_hot:
        merged = assignment.apply(layout.images.take(sequence), layout.images.size)
        images = after.images
        out[images.rows[images.valid], images.place[images.valid]] = merged[images.valid].to(out.dtype)
    return out
