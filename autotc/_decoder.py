"""Sites `projector` and `decoder`: the language model's sequence gets shorter, and what follows from it.

Forward pre-hooks on the core model (what is this call?), on the language model (cut before its first layer)
and on every layer (cut before that layer; from there on masks and rotary positions of the shorter sequence).
The outer `input_ids` and `attention_mask` always stay full length, so that `generate` counts positions as it
does without a policy.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autotc._layout import Layout, linked, read_prompt, shorten
from autotc._run import Run, beam_order, check_call, gather_positions, new_run, same_prompt, take_deep
from autotc._sight import Sight
from autotc._signals import (
    BEFORE,
    TAPPED,
    WHOLE,
    Before,
    Tapped,
)
from autotc._stages import Ledger, Plan
from autotc._tap import Watcher, base_name
from autotc._tower import Tower, TowerRun
from autotc.adapter import ModelAdapter
from autotc.assignment import Assignment, select
from autotc.errors import UnsupportedError


class Decoder:
    """The language-model side of a policy, by hooks on one model.

    Args:
        adapter: the model's adapter.
        plan: the policy's steps.
        compact: renumber positions after every cut.
        tower: the vision side, which runs first.
    """

    def __init__(self, adapter: ModelAdapter, plan: Plan, compact: bool, tower: Tower) -> None:
        self.adapter, self.plan, self.compact, self.tower = adapter, plan, compact, tower
        self.run: Run | None = None
        self.replay: Mapping[int, Assignment | None] | None = None
        self.sight = Sight(adapter, tower)
        self.announce: Callable[[Tensor, Tensor | None], None] = lambda ids, mask: None
        self._call: dict[str, Any] | None = None
        self._pending: Run | None = None
        self._names = list(inspect.signature(adapter.core.forward).parameters)
        self._eager = base_name(adapter.text.config._attn_implementation) == "eager"
        self._needed_after: dict[
            int, set[str]
        ] = {}  # signals that a cut or a look behind a layer takes from it
        for i in range(1, len(adapter.layers)):
            steps = (plan.at("decoder", i), *plan.watching("decoder", i))
            wanted = {need for step in steps if step is not None for need in step.needs}
            if wanted:
                self._needed_after[i - 1] = wanted

    def watchers(self) -> dict[nn.Module, Watcher]:
        """Return the attention modules whose signals a step needs."""
        needs = self._needed_after
        return {
            self.adapter.layers[i].self_attn: self._watcher(i, bool(needs[i] & WHOLE))
            for i in needs
            if needs[i] & (TAPPED | WHOLE)
        }

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks and return their handles."""
        hooks = [
            self.adapter.core.register_forward_pre_hook(self._enter_core, with_kwargs=True),
            self.adapter.text.register_forward_pre_hook(self._enter_text, with_kwargs=True),
        ]
        for i, layer in enumerate(self.adapter.layers):
            hooks.append(layer.register_forward_pre_hook(self._layer_hook(i), with_kwargs=True))
            if i < len(self.adapter.deep_projectors) and self.plan.steps:
                hooks.append(layer.register_forward_hook(partial(self._add_deep, i)))
            if "transition" in self._needed_after.get(i, ()):
                hooks += self._watch_transition(i, layer)
        return hooks

    def _watch_transition(self, i: int, layer: Any) -> list[RemovableHandle]:
        """Let a layer's norms and halves show what goes in and comes out while a prompt runs."""

        def shown(part: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                run = self.run
                if run is not None and run.prefilling and i in run.before_layers:
                    run.before_layers[i].show(part, output, run.layouts[i])

            return hook

        parts = {
            "in": (layer.input_layernorm, layer.post_attention_layernorm),
            "out": (layer.self_attn, layer.mlp),
        }
        return [m.register_forward_hook(shown(part)) for part, modules in parts.items() for m in modules]

    # calls --------------------------------------------------------------------------------------------------

    def _enter_core(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        call = {**dict(zip(self._names, args, strict=False)), **kwargs}
        self._call = None
        ids, cache = call.get("input_ids"), call.get("past_key_values")
        check_call(call)
        past = cache.get_seq_length() if cache is not None else 0
        if past:
            return self._continue(call, args, kwargs)
        if ids is None:
            raise UnsupportedError(
                "compress: a prefill needs input_ids, inputs_embeds alone hide the image tokens"
            )
        if not bool((ids == self.adapter.image_token).any()):
            self.run = None
            return None
        if call.get("pixel_values") is None and (call.get("mm_encoder_outputs") or {}).get("image") is None:
            raise UnsupportedError("compress: the prompt has image tokens, but no pixel_values came with it")
        mask = call.get("attention_mask")
        if mask is not None and mask.shape[1] != ids.shape[1]:
            raise UnsupportedError(
                f"compress: attention_mask has {mask.shape[1]} columns for {ids.shape[1]} tokens; "
                "chunked prefill is not supported, pass the whole prompt at once"
            )
        if call.get("pixel_values") is not None:
            self.announce(ids, mask)
        self._call = call
        return None

    def _continue(self, call: dict[str, Any], args: Any, kwargs: dict[str, Any]) -> Any:
        run, cache, ids = self.run, call["past_key_values"], call.get("input_ids")
        if run is None:
            return None
        self._own_cache(run, cache)
        # one token at a time is what a model wrote itself, whatever its id
        if ids is not None and ids.shape[1] > 1 and bool((ids == self.adapter.image_token).any()):
            raise UnsupportedError(
                "compress: image tokens behind a filled cache; chunked prefill is not supported"
            )
        new = ids.shape[1] if ids is not None else call["inputs_embeds"].shape[1]
        before, mask = self._before(run, cache), call.get("attention_mask")
        width = run.input_ids.shape[1] + before + new
        if mask is not None and mask.shape[1] != width:
            raise UnsupportedError(
                f"compress: attention_mask has {mask.shape[1]} columns, {width} were expected: "
                f"the prompt's full {run.input_ids.shape[1]}, {before} generated before and {new} new"
            )
        if run.shortened and call.get("position_ids") is None:
            rest = {k: v for k, v in zip(self._names, args, strict=False) if k not in kwargs}
            return (), {**rest, **kwargs, "position_ids": self.after(run, run.next, before, new)}
        return None

    def _enter_text(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        call, self._call = self._call, None
        pending, self._pending = self._pending, None
        if pending is not None:
            self.run = pending
            return (), self._prefill(pending, kwargs)
        if call is not None:
            self.run = self._read(call, kwargs)
            return (), self._prefill(self.run, kwargs)
        run, cache = self.run, kwargs.get("past_key_values")
        if run is None or cache is None or cache.get_seq_length() == 0:
            return None
        self._own_cache(run, cache)
        run.prefilling, run.before = False, self._before(run, cache)
        run.ropes.clear()
        return None if not run.shortened else ((), self._decode(run, kwargs))

    def _read(self, call: dict[str, Any], kwargs: dict[str, Any]) -> Run:
        """Start a run from what the core model was called with; the tower has run by now."""
        ids, mask, embeds = call["input_ids"], call.get("attention_mask"), kwargs["inputs_embeds"]
        tower = self.tower.run
        if tower is None:
            raise UnsupportedError(
                "compress: image features were computed outside; pass pixel_values inside compress"
            )
        if tower.same is not None:
            order = tower.same.order
        else:
            order = beam_order(ids == self.adapter.image_token, [t * h * w for t, h, w in tower.grids])
        grids = [tower.grids[i] for i in order]
        original = None if tower.original is None else [tower.original[i] for i in order]
        before = self.run
        replay = self.replay
        if before is not None and replay is None and kwargs.get("past_key_values") is None:
            replay = same_prompt(before, ids)
        prompt_length = (
            before.input_ids.shape[1] if before is not None and replay is not self.replay else ids.shape[1]
        )
        groups = None if tower.groups is None else [tower.groups[i] for i in order]
        layout = read_prompt(ids, mask, self.adapter.image_token, grids, original, groups)
        layout = linked(layout) if self.adapter.tiles_touch else layout
        positions = kwargs.get("position_ids")
        run = new_run(ids[:, :prompt_length], layout, embeds, positions, Ledger(replay), torch.tensor(order))
        run.calls = ids.shape[1]
        return run

    def begin(self, run: Run) -> None:
        """Take a prepared run as the one that the next call of the language model belongs to."""
        self._pending = run

    # the prompt ---------------------------------------------------------------------------------------------

    def _prefill(self, run: Run, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Cut what enters the language model; return its arguments."""
        tower, embeds, layout = self.tower.run, kwargs["inputs_embeds"], run.prompt
        if self.plan.steps:
            kwargs, run.deep = take_deep(self.adapter.deep_arguments, kwargs)
        if tower is not None:
            self.note_tower(run, tower)
            if tower.cut:
                layout, embeds = _drop_dead(run, embeds, tower, self.compact)
        step = self.plan.at("projector")
        if step is not None:
            view = self.sight.at_entry(step, embeds, layout, run)
            assignment = run.ledger.decide(step, view, layout.images.original)
            if assignment is not None:
                after, index = shorten(layout, assignment, self.compact)
                embeds, layout = run.moved(embeds, layout, assignment, after, index), after
        if layout is run.prompt:
            return kwargs
        positions = gather_positions(kwargs.get("position_ids"), layout)
        columns = torch.arange(layout.length, device=embeds.device).expand_as(layout.slots)
        run.entry = run.current = replace(layout, index=columns)
        mask = layout.valid.long()
        return {**kwargs, "inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}

    def note_tower(self, run: Run, tower: TowerRun) -> None:
        """Copy the tower's decisions and counts, one row an image of the language model."""
        step = self.plan.at("input")
        if step is not None:
            images = run.prompt.images
            asked = torch.tensor([step.stage.tokens(n) for n in images.original])
            run.ledger.note(step, asked, torch.tensor([t * h * w for t, h, w in images.grids]))
        for entry in tower.ledger.trace:
            picked = {k: v[run.images.to(v.device)] for k, v in entry.items() if isinstance(v, Tensor)}
            run.ledger.trace.append({**entry, **picked})
        run.ledger.decisions.update(tower.ledger.decisions)

    def _layer_hook(self, i: int) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            run = self.run
            if run is None:
                return None
            hidden = args[0] if args else kwargs["hidden_states"]
            if run.prefilling:
                changed = self._prefill_layer(i, module, hidden, kwargs, run)
            else:
                changed = self._decode_layer(i, hidden, kwargs, run)
            if changed is None:
                return None
            hidden, kwargs = changed
            kwargs.pop("hidden_states", None)
            return (hidden, *args[1:]), kwargs

        return hook

    def _prefill_layer(
        self, i: int, module: nn.Module, hidden: Tensor, kwargs: dict[str, Any], run: Run
    ) -> tuple[Tensor, dict[str, Any]] | None:
        cache = kwargs.get("past_key_values")
        if run.cache is None and cache is not None:
            run.cache = weakref.ref(cache)
        for watching in self.plan.watching("decoder", i) if run.ledger.replay is None else ():
            run.ledger.observe(watching, self.sight.before_layer(watching, i, hidden, kwargs, run))
        step = self.plan.at("decoder", i)
        if step is not None:
            layout = run.current
            view = self.sight.before_layer(step, i, hidden, kwargs, run)
            assignment = run.ledger.decide(step, view, layout.images.original)
            if assignment is not None:
                after, index = shorten(layout, assignment, self.compact)
                hidden = run.moved(hidden, layout, assignment, after, index, i)
                run.current = after
        run.taps.pop(i - 1, None)
        run.before_layers.pop(i - 1, None)
        run.layouts[i] = run.current
        if self._needed_after.get(i, set()) & BEFORE and run.ledger.replay is None:
            run.before_layers[i] = Before(module, hidden)
        if run.current is run.entry:
            return None
        layout = run.current
        changed = {
            "attention_mask": layout.prefill_mask(self._eager, hidden.dtype),
            "position_embeddings": self.sight.rope(run, layout, hidden, kwargs),
        }
        if kwargs.get("position_ids") is not None:
            given = kwargs["position_ids"].expand(len(hidden), -1)
            changed["position_ids"] = (
                given.gather(1, layout.index) if layout.positions is None else layout.positions
            )
        return hidden, {**kwargs, **changed}

    def _add_deep(self, level: int, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        run = self.run
        if run is None or not run.prefilling or level >= len(run.deep):
            return None
        return output + run.deep[level]

    def _watcher(self, i: int, whole: bool) -> Watcher:
        def watch(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> None:
            run = self.run
            if run is not None and run.prefilling and run.ledger.replay is None:
                run.taps[i] = Tapped.of(queries, keys, scale, run.layouts[i], whole)

        return watch

    # tokens after the prompt --------------------------------------------------------------------------------

    def _decode(self, run: Run, kwargs: dict[str, Any]) -> dict[str, Any]:
        embeds = kwargs["inputs_embeds"]
        new, entry = embeds.shape[1], run.entry
        kwargs = dict(kwargs)
        if entry is not run.prompt:
            later = torch.ones(len(embeds), run.before + new, dtype=torch.long, device=embeds.device)
            kwargs["attention_mask"] = torch.cat([entry.valid.long(), later], 1)
        if entry.positions is not None and entry.next is not None:
            kwargs["position_ids"] = self.after(run, entry.next, run.before, new)
        elif kwargs.get("position_ids") is None:
            kwargs["position_ids"] = self.after(run, run.next, run.before, new)
        return kwargs

    def _decode_layer(
        self, i: int, hidden: Tensor, kwargs: dict[str, Any], run: Run
    ) -> tuple[Tensor, dict[str, Any]] | None:
        layout = run.layouts[i]
        if layout is run.entry:
            return None
        changed: dict[str, Any] = {
            "attention_mask": layout.decode_mask(run.before, hidden.shape[1], self._eager, hidden.dtype)
        }
        if layout.positions is not None and layout.next is not None:
            if id(layout) not in run.ropes:
                positions = self.after(run, layout.next, run.before, hidden.shape[1])
                run.ropes[id(layout)] = self.adapter.text.rotary_emb(hidden, positions)
            changed["position_embeddings"] = run.ropes[id(layout)]
        return hidden, {**kwargs, **changed}

    @staticmethod
    def after(run: Run, first: Tensor, before: int, new: int) -> Tensor:
        """Return rotary positions of `new` tokens, (B, new) or (3, B, new)."""
        positions = first[:, None] + before + torch.arange(new, device=first.device)
        return positions.expand(3, -1, -1) if run.three_rows else positions

    @staticmethod
    def _before(run: Run, cache: Any) -> int:
        """Return the tokens in a cache behind the prompt: layer 0 holds the entry layout and all of them."""
        return int(cache.get_seq_length()) - run.entry.length

    def _own_cache(self, run: Run, cache: Any) -> None:
        if run.cache is None or run.cache() is not cache:
            raise UnsupportedError(
                "compress: this cache was not filled by the latest prefill under the policy; "
                "start from the prompt"
            )


def _drop_dead(run: Run, embeds: Tensor, tower: TowerRun, compact: bool) -> tuple[Layout, Tensor]:
    """Remove the rows of tokens that the tower dropped; sizes are the tower's."""
    layout = run.prompt
    source, valid, size = (t[run.images] for t in tower.alive())
    keep = torch.zeros_like(layout.images.valid)
    keep.scatter_reduce_(1, source, valid, reduce="amax")
    assignment = select(keep)
    after, index = shorten(layout, assignment, compact)
    embeds = run.moved(embeds, layout, assignment, after, index)
    width = after.images.place.shape[1]
    return replace(after, images=replace(after.images, size=size[:, :width])), embeds
