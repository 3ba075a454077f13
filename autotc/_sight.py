"""What reducers see in the language model: tokens, signals and where they stand, at its entrance and before a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autotc import kernels
from autotc._layout import Layout
from autotc._run import Run
from autotc._signals import decoder_signals, entry_signals, tower_signals
from autotc._stages import Step
from autotc._tower import Tower, TowerRun
from autotc.adapter import ModelAdapter
from autotc.keywords import keyword_marks
from autotc.reducer import Signals, TokenView


class Sight:
    """Builds views of a prefill.

    Args:
        adapter: of the model.
        tower: the vision side, which runs first.

    Attributes:
        ids: (B,) a number of each example, for reducers that draw at random; None: a hash of the prompt.
        processor: knows questions in prompts, and may hold a text encoder; None: such signals are absent.
    """

    def __init__(self, adapter: ModelAdapter, tower: Tower) -> None:
        self.adapter, self.tower = adapter, tower
        self.ids: Tensor | None = None
        self.processor: Any = None

    def at_entry(self, step: Step, embeds: Tensor, layout: Layout, run: Run) -> TokenView:
        """Return what a reducer sees where the language model is entered, embeds (B, S, D)."""
        signals = entry_signals(step.needs, layout, embeds)
        if self.tower.run is not None:
            signals |= self._behind_tower(step, layout, self.tower.run, run)
        return self._view(step, embeds, layout, run, signals)

    def before_layer(self, step: Step, i: int, hidden: Tensor, kwargs: dict[str, Any], run: Run) -> TokenView:
        """Return what a reducer sees before decoder layer i, (B, S, D) entering it."""
        layout, layer = run.current, self.adapter.layers[i]
        signals: dict[str, Tensor] = {}
        if run.ledger.replay is None and layout.images.place.shape[1]:
            rope = self.rope(run, layout, hidden, kwargs)
            tapped, before = run.taps.get(i - 1), run.before_layers.get(i - 1)
            signals = decoder_signals(
                step.needs, layer, self.adapter.text, hidden, tapped, before, layout, rope
            )
            signals |= entry_signals(step.needs, run.prompt, run.embeds)
            if self.tower.run is not None:
                signals |= self._behind_tower(step, layout, self.tower.run, run)
        return self._view(step, hidden, layout, run, signals)

    def _behind_tower(self, step: Step, layout: Layout, tower: TowerRun, run: Run) -> dict[str, Tensor]:
        """Return what the vision side, its text encoder and the question say about the tokens left."""
        signals = tower_signals(step.needs, layout, tower, run.images)
        if "text_keywords" in step.needs:
            signals["text_keywords"] = keyword_marks(self._questions(run), self.processor).to(
                run.embeds.device
            )
        encoder = getattr(self.processor, "text_encoder", None)
        if encoder is not None and "clip_text" in step.needs:
            signals["clip_text"] = encoder.texts(self.processor.questions(self._questions(run)))
        if encoder is not None and "clip_patches" in step.needs:
            features = tower_signals(["features"], layout, tower, run.images)["features"]
            signals["clip_patches"] = encoder.patches(self.adapter.tower_norm, features)
        return signals

    def _questions(self, run: Run) -> list[list[int]]:
        """Return the text tokens behind each image."""
        rows, real = run.prompt.text_rows()
        ids = run.input_ids[run.prompt.images.sample[:, None], rows]
        return [row[valid].tolist() for row, valid in zip(ids, real, strict=True)]

    def rope(self, run: Run, layout: Layout, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return cos and sin (B, S, hd) of a layout."""
        if layout is run.entry:
            cos, sin = kwargs["position_embeddings"]
            return cos.expand(len(hidden), -1, -1), sin.expand(len(hidden), -1, -1)
        if id(layout) not in run.ropes:
            if layout.positions is not None:
                run.ropes[id(layout)] = self.adapter.text.rotary_emb(hidden, layout.positions)
            else:
                cos, sin = kwargs["position_embeddings"]
                wide = [t.expand(len(hidden), -1, -1) for t in (cos, sin)]
                cos, sin = kernels.gather_rows(wide, layout.index)
                run.ropes[id(layout)] = (cos, sin)
        return run.ropes[id(layout)]

    def _view(self, step: Step, x: Tensor, layout: Layout, run: Run, signals: dict[str, Tensor]) -> TokenView:
        images = layout.images
        text = {n for n in step.needs if "text_" in n}
        return TokenView(
            x=images.take(x),
            valid=images.valid,
            image=images.picture[:, None].expand_as(images.place),
            group=images.group,
            grids=images.grids,
            source=images.source,
            size=images.size,
            signals=Signals(signals, step.needs),
            text_valid=layout.text_rows()[1] if text else None,
            ids=self._ids(run),
        )

    def _ids(self, run: Run) -> Tensor:
        """(I,) a number of the example and image: as given, else a hash of the prompt (padding left out)."""
        images, ids = run.prompt.images, run.input_ids
        if self.ids is not None:
            given = self.ids.to(ids.device).repeat_interleave(len(ids) // len(self.ids))
        else:
            back = torch.arange(ids.shape[1], 0, -1, device=ids.device)
            valid = run.prompt.valid[:, : ids.shape[1]]
            given = (ids * valid * (back * 2654435761 % 2147483647)).sum(1) % 2147483647
        return given[images.sample] * 64 + images.ordinal
