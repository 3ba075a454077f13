"""What visual tokens receive in each layer of a model: one forward an example with all attention maps written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotc.adapter import resolve_model
from autotc.errors import ModelError
from autotc.processing import Processor, load_model
from autotc.search.strategies.attention import FILE, Attention
from autotc.task import Example, Task

Each = Callable[[int, int], None]


def record(
    model: Any,
    processor: Processor,
    examples: Sequence[Example],
    on: str,
    each: Each = lambda done, total: None,
) -> Attention:
    """Run a model without a policy on examples, one at a time, prompts only.

    Args:
        model: in eval mode; its attention is left as it was found.
        processor: of the model.
        examples: with at least one image each.
        on: name of the model.
        each: called after every example with how many are done, and how many there are.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others return no maps
    rows = []
    try:
        for done, example in enumerate(examples, 1):
            inputs = processor.inputs([example.load()], [example.question])
            rows.append(_received(model, inputs, processor.image_token_id))
            each(done, len(examples))
    finally:
        model.set_attn_implementation(before)
    tokens = np.array([row.shape[-1] for row in rows])
    padded = [np.pad(row, ((0, 0), (0, 0), (0, tokens.max() - row.shape[-1]))) for row in rows]
    cross, own = np.stack(padded, 1)
    return Attention(cross, own, tokens, on)


@torch.inference_mode()
def _received(model: Any, inputs: dict[str, Any], image_token: int) -> np.ndarray:
    """Return what the visual tokens receive from the text behind them, and from themselves, (2, L, N)."""
    maps = model(**inputs, output_attentions=True, use_cache=False).attentions
    visual = inputs["input_ids"][0] == image_token
    text = ~visual & (visual.cumsum(0) > 0)
    peaks = [layer[0].float().amax(0)[:, visual] for layer in maps]
    return np.array([[peak[rows].mean(0).numpy() for peak in peaks] for rows in (text, visual)])


def measure(name: str, task: Task, n: int, each: Each = lambda done, total: None) -> tuple[Attention, Path]:
    """Record a model's attention on the first examples of the search split, and write it where strategies look.

    Args:
        name: a model folder, or the alias or id of one that is at hand.
        task: the data.
        n: examples.
        each: as for `record`.

    Raises:
        ModelError: the model is not at hand.
    """
    source = resolve_model(name)
    if source.folder is None:
        raise ModelError(f"--model {name}: its weights are not at hand; name a folder that holds them")
    model, processor = load_model(source.folder)
    path = Path(source.anatomy.id) / FILE
    found = record(model, processor, task.examples("search", n), source.folder.name, each)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.write(path)
    return found, path
