"""Batches of examples as model inputs, and the prefills that are kept between policies.

A batch is a fixed piece of a split. What policies can share is captured once: the visual features in the
language model's order, the embedded prompt, the hidden states that enter the decoder layers, keys and values.
All of it is bounded in bytes; what does not fit is computed again, with the same results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from autotc._inputs import WrappedProcessor
from autotc._memory import default_limit_bytes
from autotc._same import Same
from autotc._score import Answers, Scores
from autotc._stages import Step, first_observed
from autotc.adapter import ModelAdapter
from autotc.anatomy import Anatomy
from autotc.apply import Compression, Prefix
from autotc.policy import Stage
from autotc.processing import Processor
from autotc.task import Example

ALIKE = (
    1.25  # prompts of one batch differ at most by this factor in visual tokens, so that padding stays small
)


@dataclass
class Inputs:
    """One batch as the model takes it, at one image resolution.

    Args:
        tensors: what the model is called with.
        original: visual tokens of each image before an `input` stage; None where there was none.
        same: images that show the same picture, where there are any.
    """

    tensors: dict[str, Tensor]
    original: list[int] | None = None
    same: Same | None = None


@dataclass
class Batch:
    """Examples that run together.

    Args:
        examples: in order.
        key: names the batch in the caches.
        numbers: (B,) int64 a number of each example's image: reducers that draw at random draw the same for
            all questions of an image.
        pictures: by example, where they were loaded already.
        images: how many each example has, once inputs were made.
        inputs: at the data's own resolution, where they are kept.
        answers: what to score, once the uncompressed model has been run.
        full, blind: scores of the uncompressed model, and of the model without visual tokens.
        siblings: for each example the place in this batch of the other question that is asked of its image,
            or -1.
    """

    examples: list[Example]
    key: Hashable
    numbers: Tensor
    pictures: dict[str, list[Image]] = field(default_factory=dict)
    images: list[int] = field(default_factory=list)
    inputs: Inputs | None = None
    answers: Answers | None = None
    full: Scores | None = None
    blind: Scores | None = None
    siblings: list[int] = field(default_factory=list)


def image_number(key: str) -> int:
    """Return a number of an image that is the same in every process."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def new_batch(split: str, examples: list[Example], device: str) -> Batch:
    """Return a batch with nothing computed yet."""
    numbers = torch.tensor([image_number(example.image) for example in examples], device=device)
    return Batch(examples, (split, *(example.id for example in examples)), numbers)


def cut(sizes: Sequence[int], start: int, most: int) -> list[list[int]]:
    """Cut examples into batches on a grid of `most`, so that increments of a race find the batches of the
    whole.

    Within a step of the grid, examples of very different sizes go to different batches.

    Args:
        sizes: visual tokens of each example.
        start: where the first one stands in its split.
        most: examples in a batch, at most.

    Returns:
        Places of each batch's examples.
    """
    batches = []
    low = 0
    while low < len(sizes):
        high = min(len(sizes), (start + low) // most * most + most - start)
        group: list[int] = []
        for i in sorted(range(low, high), key=lambda i: (sizes[i], i)):
            if group and sizes[i] > ALIKE * sizes[group[0]]:
                batches.append(sorted(group))
                group = []
            group.append(i)
        batches.append(sorted(group))
        low = high
    return batches


def make_inputs(
    batch: Batch, processor: Processor, anatomy: Anatomy, stage: Stage | None, device: str
) -> Inputs:
    """Return the batch's tensors, its images shown smaller where there is an `input` stage."""
    wrapped = None
    if stage is not None:
        wrapped = WrappedProcessor(processor, stage, anatomy.image, processor.image_token_id)
    try:
        pictures = [batch.pictures.get(example.id) or example.load() for example in batch.examples]
        batch.images = [len(mine) for mine in pictures]
        tensors = processor.inputs(pictures, [example.question for example in batch.examples])
    finally:
        if wrapped is not None:
            wrapped.remove()
    original = None
    if wrapped is not None:
        original = wrapped.originals(tensors["input_ids"], tensors["attention_mask"])
    return Inputs({name: tensor.to(device) for name, tensor in tensors.items()}, original)


class PrefixStore:
    """Captured prefills within a bound of bytes.

    A new one displaces what was not used lately; an evaluation passes over all batches again and again, and
    what it used in its latest round stays. A prefill that does not fit whole is kept without its decoder
    states: policies then start at the language model's entrance.

    Args:
        limit_bytes: the bound.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = default_limit_bytes() if limit_bytes is None else limit_bytes
        self.round = 0
        self._kept: dict[Hashable, tuple[Any, int, int]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(size for _, size, _ in self._kept.values())

    def begin(self) -> None:
        """Start a round: one evaluation."""
        self.round += 1

    def get(self, key: Hashable) -> Any:
        """Return a kept prefill or tower states, or None."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept[key] = (found[0], found[1], self.round)
        return found[0]

    def put(self, key: Hashable, prefix: Prefix) -> None:
        """Keep a prefill, or as much of it as fits."""
        self._put(key, (prefix, nbytes(prefix)), (slim := light(prefix), nbytes(slim)))

    def put_tower(self, key: Hashable, states: TowerStates) -> None:
        """Keep tower states, all or none."""
        self._put(key, (states, sum(hidden.nbytes for hidden in states.hidden)))

    def _put(self, key: Hashable, *forms: tuple[Any, int]) -> None:
        for form, size in forms:
            old = sorted(
                (k for k, (_, _, used) in self._kept.items() if used < self.round - 1),
                key=lambda k: self._kept[k][2],
            )
            while old and self.nbytes + size > self.limit_bytes:
                del self._kept[old.pop(0)]
            if self.nbytes + size <= self.limit_bytes:
                self._kept[key] = (form, size, self.round)
                return

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()


@dataclass
class TowerStates:
    """The hidden states that enter each block of the vision tower, for the images of one batch."""

    hidden: list[Tensor] = field(default_factory=list)


@contextmanager
def recorded_tower(adapter: ModelAdapter) -> Iterator[TowerStates]:
    """Write down the tower's states while the model runs without a policy."""
    states = TowerStates()

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        states.hidden.append(args[0] if args else kwargs["hidden_states"])

    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in adapter.blocks]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def resumed_tower(compression: Compression, states: TowerStates) -> Iterator[None]:
    """Let the tower start at the first block that a policy looks at or cuts, from recorded states."""
    blocks = compression.adapter.blocks
    steps = compression.plan.of("vision")
    first = min([*map(_first_block, steps), *compression.tower.looked_at()])

    def recorded(i: int, *args: Any, **kwargs: Any) -> Tensor:
        return states.hidden[i + 1]

    skipped = list(blocks)[:first]
    for i, block in enumerate(skipped):
        block.forward = partial(recorded, i)
    try:
        yield
    finally:
        for block in skipped:
            del block.forward


def _first_block(step: Step) -> int:
    """The first block whose run matters to a stage: signals of a cut before a block come from the one
    before.
    """
    layer = first_observed(step)
    before = step.reducer.where != "after_attention" and any(name.startswith("block_") for name in step.needs)
    return layer - before


def light(prefix: Prefix) -> Prefix:
    """Return a prefill without its decoder states: visual features, embedded prompt and logits are left."""
    return replace(prefix, hidden=[], arguments=[], taps={}, cache=None)


def nbytes(prefix: Prefix) -> int:
    """Return the bytes of a prefill's tensors, each counted once."""
    seen: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit([prefix.hidden, prefix.arguments, prefix.text, prefix.tower.signals])
    visit([[tap.last, tap.text, tap.keys] for tap in prefix.taps.values()])
    if prefix.cache is not None:
        visit([[layer.keys, layer.values] for layer in prefix.cache.layers])
    return sum(seen.values())


def batch_size(anatomy: Anatomy, tokens: int, most: int, bytes_each: int = 4) -> int:
    """Return how many prompts of `tokens` tokens run together, so that a captured prefill stays near 512
    MiB.
    """
    decoder = anatomy.decoder
    token = decoder.layers * (decoder.width + 2 * decoder.kv_heads * decoder.head_dim) * bytes_each
    return max(1, min(most, (512 << 20) // max(1, token * tokens)))
