"""Many policies on one prefill: capture once what no policy has touched, start each policy at its first site.

    prefix = capture(model, inputs)                      # once a batch, without any policy attached
    with compress(model, policy) as compression:
        state = resume(compression, prefix)              # first site `projector` or `decoder`
        state = prefill(compression, inputs)             # any policy, from the pixels on; the same logits
        logits = score(compression, state, answer_ids)   # (B, T, V): position t predicts answer_ids[:, t]

`state.logits` (B, V) predicts the first answer token, `state.trace` says what each stage kept, and
`resume(compression, other_prefix, decisions=state.decisions)` repeats the decisions under another question on
the same images. Logits equal those of the model under `compress` bit for bit. Several states may live at the
same time; a state is used together with the compression that made it. Prompts are padded on the left.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autotc._decoder import Decoder
from autotc._layout import Layout
from autotc._run import ATTACHED, Run, new_run, take_deep
from autotc._same import Same
from autotc._signals import BEFORE, COMMON, Tapped
from autotc._stages import Ledger, Plan, Step, first_observed
from autotc._tap import Tap, Watcher
from autotc._tower import Tower, TowerRun
from autotc.adapter import adapter_for
from autotc.assignment import Assignment
from autotc.policy import ModelRef, Policy

if TYPE_CHECKING:
    from autotc.apply import Compression


@dataclass
class Prefix:
    """A batch of prompts, run through the model without a policy.

    Args:
        input_ids: (B, L).
        layout: of the whole prompts.
        text: what the language model was called with (`inputs_embeds`, `attention_mask`, `position_ids`, and the
            features that DeepStack adds).
        hidden: for each decoder layer, (B, L, D) entering it; empty when given up to save memory, together
            with `arguments`, `taps` and `cache`: policies then start where the language model is entered.
        arguments: for each decoder layer, its other arguments.
        taps: for each decoder layer, last and text queries and all keys.
        cache: the filled cache; never written to again.
        logits: (B, V) of the last prompt token, uncompressed.
        tower: the vision side: grids, signals of the last block.
        images: (I,) the tower's image of each image.
    """

    input_ids: Tensor
    layout: Layout
    text: dict[str, Any]
    hidden: list[Tensor]
    arguments: list[dict[str, Any]]
    taps: dict[int, Tapped]
    cache: Any
    logits: Tensor
    tower: TowerRun
    images: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes held, roughly: hidden states, keys and values, embeddings."""
        layers = [t for layer in self.cache.layers for t in (layer.keys, layer.values)]
        taps = [t for tap in self.taps.values() for t in (tap.last, tap.text)]
        return sum(t.nbytes for t in [*self.hidden, *layers, *taps, self.text["inputs_embeds"]])


@dataclass
class Prefilled:
    """A batch of prompts under a policy, ready for what comes after them.

    Args:
        logits: (B, V) of the last prompt token.
        cache: keys and values that are left.
        run: the layouts of all layers.
    """

    logits: Tensor
    cache: Any
    run: Run = field(repr=False)

    @property
    def trace(self) -> list[dict[str, Any]]:
        """A record a stage: `stage`, `asked` (I,), `kept` (I,)."""
        return self.run.ledger.trace

    @property
    def decisions(self) -> dict[int, Assignment | None]:
        """Each stage's assignment, to be repeated under another question."""
        return self.run.ledger.decisions


class _Recorder:
    """Hooks that write down a stock prefill."""

    def __init__(self, model: nn.Module, signals: Sequence[str]) -> None:
        self.adapter = adapter_for(model)
        reference = ModelRef(
            family=self.adapter.name,
            decoder_layers=max(2, len(self.adapter.layers)),
            vision_blocks=len(self.adapter.blocks),
        )
        plan = Plan(Policy(model=reference))
        self.tower = Tower(self.adapter, plan, set(signals))
        self.decoder = Decoder(self.adapter, plan, False, self.tower)
        self.text: dict[str, Any] = {}
        self.hidden: list[Tensor] = []
        self.arguments: list[dict[str, Any]] = []
        self.taps: dict[int, Tapped] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles = [*self.tower.attach(), *self.decoder.attach()]
        handles.append(self.adapter.text.register_forward_pre_hook(self._text, with_kwargs=True))
        for layer in self.adapter.layers:
            handles.append(layer.register_forward_pre_hook(self._layer, with_kwargs=True))
        watchers: dict[nn.Module, Watcher] = {
            layer.self_attn: self._watcher(i) for i, layer in enumerate(self.adapter.layers)
        }
        tap = Tap({**watchers, **self.tower.watchers()})
        try:
            yield
        finally:
            tap.close()
            for handle in handles:
                handle.remove()

    def _text(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        names = ("inputs_embeds", "attention_mask", "position_ids", *(self.adapter.deep_arguments or ()))
        self.text = {name: kwargs.get(name) for name in names}

    def _layer(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.hidden.append(args[0] if args else kwargs["hidden_states"])
        dropped = ("past_key_values", "hidden_states")
        self.arguments.append({k: v for k, v in kwargs.items() if k not in dropped})

    def _watcher(self, i: int) -> Watcher:
        def watch(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> None:
            run = self.decoder.run
            if run is not None:
                self.taps[i] = Tapped.of(queries, keys, scale, run.prompt)

        return watch


@torch.no_grad()
def capture(
    model: nn.Module,
    inputs: Mapping[str, Any],
    signals: Sequence[str] = COMMON,
    original: Sequence[int] | None = None,
    same: Same | None = None,
) -> Prefix:
    """Run prompts through the model without a policy and keep what policies may start from.

    Args:
        model: with no policy attached.
        inputs: as given to `generate`: `input_ids`, `attention_mask`, `pixel_values`, ...
        signals: vision signals to keep for `projector` stages.
        original: tokens of each image before an `input` stage, where the images were resized.
        same: images that show the same picture, which then passes the tower once.
    """
    if getattr(model, ATTACHED, None) is not None:
        raise ValueError("capture: the model has a policy; remove it first")
    recorder = _Recorder(model, signals)
    adapter = recorder.adapter
    wanted = set(signals) - set(adapter.signals_absent)
    recorder.tower.wanted &= wanted
    recorder.tower.given, recorder.tower.resized, recorder.tower.same = original, original is not None, same
    with recorder.attached():
        cache, hidden = _run_core(adapter, inputs)
        run, tower = recorder.decoder.run, recorder.tower.run
    if run is None or tower is None:
        raise ValueError("capture: the prompts hold no images")
    return Prefix(
        input_ids=run.input_ids,
        layout=run.prompt,
        text=recorder.text,
        hidden=recorder.hidden,
        arguments=recorder.arguments,
        taps=recorder.taps,
        cache=cache,
        logits=_logits(model, hidden),
        tower=tower,
        images=run.images,
    )


class _TowerDone(Exception):
    """Ends a call of the model where the language model would begin."""


@torch.no_grad()
def look_again(model: nn.Module, prefix: Prefix, inputs: Mapping[str, Any], signals: Collection[str]) -> None:
    """Add vision signals to a prefix that was captured without them: the tower runs once more.

    Args:
        model: with no policy attached.
        prefix: of these inputs.
        inputs: as given to `capture`.
        signals: names of `autotc.reducer.SIGNALS`.
    """
    adapter = adapter_for(model)
    recorder = _Recorder(model, tuple(signals))
    original, same = prefix.tower.original, prefix.tower.same
    if original is not None and same is not None:
        original = [original[i] for i in same.order]
    recorder.tower.given, recorder.tower.resized, recorder.tower.same = original, original is not None, same

    def stop(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        raise _TowerDone

    handles = [
        *recorder.tower.attach(),
        adapter.text.register_forward_pre_hook(stop, with_kwargs=True),
    ]
    tap = Tap(recorder.tower.watchers())
    try:
        _run_core(adapter, inputs)
    except _TowerDone:
        pass
    finally:
        tap.close()
        for handle in handles:
            handle.remove()
    assert recorder.tower.run is not None
    prefix.tower.signals.update(recorder.tower.run.signals)


@torch.no_grad()
def prefill(
    compression: Compression,
    inputs: Mapping[str, Any],
    decisions: Mapping[int, Assignment | None] | None = None,
    original: Sequence[int] | None = None,
    same: Same | None = None,
) -> Prefilled:
    """Run prompts from the pixels on, under a policy; `original` and `same` as in `capture`."""
    _require_attached(compression)
    decoder, tower = compression.decoder, compression.tower
    decoder.replay = tower.replay = decisions
    announce = decoder.announce
    if original is not None:
        tower.given, decoder.announce = original, lambda ids, mask: None
    tower.same = same
    try:
        cache, hidden = _run_core(compression.adapter, inputs)
    finally:
        decoder.replay = tower.replay = tower.same = None
        decoder.announce = announce
    run = decoder.run
    if run is None:
        raise ValueError("prefill: the policy is empty or the prompts hold no images")
    return Prefilled(_logits(compression.model, hidden), cache, run)


@torch.no_grad()
def resume(
    compression: Compression, prefix: Prefix, decisions: Mapping[int, Assignment | None] | None = None
) -> Prefilled:
    """Run a policy from its first site on, with the logits of `prefill` bit for bit.

    Args:
        compression: whose policy has no `vision` stage (an `input` stage must be in the prefix already).
        prefix: of the prompts.
        decisions: repeat these instead of asking the reducers.

    Raises:
        ValueError: the policy starts inside the vision tower; use `prefill`.
    """
    _require_attached(compression)
    decoder, adapter = compression.decoder, compression.adapter
    if compression.plan.of("vision"):
        raise ValueError("resume: the policy starts in the vision tower; use prefill")
    run = new_run(
        prefix.input_ids,
        prefix.layout,
        prefix.text["inputs_embeds"],
        prefix.text["position_ids"],
        Ledger(decisions),
        prefix.images,
    )
    compression.tower.run = prefix.tower
    steps = compression.plan.of("decoder")
    first = min(map(_starts, steps), default=len(adapter.layers))
    if compression.plan.at("projector") is not None or not prefix.hidden:
        decoder.begin(run)
        cache = _new_cache(adapter)
        out = adapter.text(past_key_values=cache, use_cache=True, **prefix.text)
        return Prefilled(_logits(compression.model, out.last_hidden_state), cache, run)
    decoder.note_tower(run, prefix.tower)
    run.deep = take_deep(adapter.deep_arguments, prefix.text)[1]
    cache = _copy_cache(prefix.cache, first)
    run.cache = weakref.ref(cache)
    run.layouts = dict.fromkeys(range(first), run.current)
    decoder.run = run
    if first == len(adapter.layers):
        return Prefilled(prefix.logits, cache, run)
    if first - 1 in prefix.taps:
        run.taps[first - 1] = prefix.taps[first - 1]
    hidden = prefix.hidden[first]
    for i in range(first, len(adapter.layers)):
        hidden = adapter.layers[i](hidden, past_key_values=cache, **prefix.arguments[i])
    return Prefilled(_logits(compression.model, adapter.text.norm(hidden)), cache, run)


@torch.no_grad()
def score(compression: Compression, state: Prefilled, answer_ids: Tensor) -> Tensor:
    """Return the logits (B, T, V) of answers in one chunk; the state can be scored again afterwards.

    Args:
        compression: the one that made the state, still attached.
        state: from `resume` or `prefill`.
        answer_ids: (B, T), padded on the right; logits at padding mean nothing.
    """
    _require_attached(compression)
    first = state.logits[:, None]
    chunk = answer_ids[:, :-1]
    if chunk.shape[1] == 0:
        return first
    adapter, run, decoder = compression.adapter, state.run, compression.decoder
    decoder.run = run
    cache = _copy_cache(state.cache, len(adapter.layers))
    held, run.cache = run.cache, weakref.ref(cache)
    later = torch.ones_like(chunk)
    try:
        out = adapter.text(
            inputs_embeds=adapter.text.embed_tokens(chunk),
            attention_mask=torch.cat([run.prompt.valid.long(), later], 1),
            position_ids=decoder.after(run, run.next, 0, chunk.shape[1]),
            past_key_values=cache,
            use_cache=True,
        )
    finally:
        run.cache = held
    head: Any = compression.model.lm_head
    return torch.cat([first, head(out.last_hidden_state)], 1)


def _starts(step: Step) -> int:
    """The first decoder layer that has to run for a step: the one before its cut, where it looks back at more than
    a prefix holds.
    """
    return max(0, first_observed(step) - bool(set(step.needs) & BEFORE))


def _require_attached(compression: Compression) -> None:
    if not compression.attached:
        raise ValueError("the policy was removed from the model; use it inside its with block")


def _run_core(adapter: Any, inputs: Mapping[str, Any]) -> tuple[Any, Tensor]:
    inputs = dict(inputs)
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    positions = adapter.prompt_positions(mask)
    if positions is not None:
        inputs.setdefault("position_ids", positions)
    cache = _new_cache(adapter)
    out = adapter.core(**inputs, past_key_values=cache, use_cache=True)
    return cache, out.last_hidden_state


def _new_cache(adapter: Any) -> Any:
    from transformers.cache_utils import DynamicCache

    return DynamicCache(config=adapter.text.config)


def _copy_cache(cache: Any, layers: int) -> Any:
    """Return a cache with the first layers of another one; updates rebind tensors, so the original stays."""
    out = copy.copy(cache)
    fresh = type(cache.layers[0])
    out.layers = [copy.copy(layer) if i < layers else fresh() for i, layer in enumerate(cache.layers)]
    return out


def _logits(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(hidden[:, -1:])[:, 0]
    return logits
