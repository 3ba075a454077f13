"""A policy on a real model: checked, attached by hooks, removed without a trace.

    with autotc.compress(model, policy):
        model.generate(**inputs)

Parts: `_layout` (which tokens are where), `_run` (one prefill), `_decoder` and `_sight` (sites `projector` and
`decoder`), `_tower` and `_rows` (site `vision`), `_inputs` (site `input`), `_tap` and `_signals` (what reducers look
at), `_reuse` (many policies on one prefill: `capture`, `resume`, `prefill`, `score`).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autotc._decoder import Decoder
from autotc._inputs import WrappedProcessor
from autotc._reuse import Prefilled, Prefix, capture, look_again, prefill, resume, score
from autotc._run import ATTACHED, check_cache
from autotc._stages import Plan
from autotc._tap import BASES, Tap, base_name
from autotc._tower import Tower
from autotc.adapter import (
    OF_CLS_ROW,
    OF_ONE_SEQUENCE_AN_IMAGE,
    OF_PROCESSOR,
    OF_TEXT_ENCODER,
    ModelAdapter,
    adapter_for,
    adapters,
)
from autotc.adapter import anatomy as anatomy_of
from autotc.anatomy import Anatomy
from autotc.assignment import Assignment
from autotc.errors import PolicyError, SpecError, UnsupportedError
from autotc.policy import Policy
from autotc.reducer import SIGNALS, make_reducer, reducers, resolve_needs

__all__ = [
    "Compression",
    "Prefilled",
    "Prefix",
    "capture",
    "check",
    "compress",
    "look_again",
    "plan_of",
    "prefill",
    "resume",
    "score",
]

_REFUSED_GENERATE = {
    "assistant_model": "assisted decoding",
    "prompt_lookup_num_tokens": "assisted decoding (prompt lookup)",
    "assistant_early_exit": "assisted decoding (early exit)",
    "prefill_chunk_size": "chunked prefill",
    "custom_generate": "a custom generate",
}


def check(policy: Policy, anatomy: Anatomy) -> None:
    """Check that a policy's reducers exist and that it fits a model.

    Raises:
        PolicyError: another family or depth, an unknown reducer or parameter, a reducer at a site it is not
        made
            for, a layer out of range; the message names the JSON path.
        UnsupportedError: something that this family does not support: positions, a signal, a site.
    """
    family = adapters.get(anatomy.family)
    depth = (anatomy.decoder.layers, anatomy.vision.blocks)
    if policy.model.family != anatomy.family:
        raise PolicyError(
            f"model.family: the policy is for {policy.model.family!r}, the model is {anatomy.family!r}"
        )
    if (policy.model.decoder_layers, policy.model.vision_blocks) != depth:
        raise PolicyError(
            f"model: the policy is for {policy.model.decoder_layers} decoder layers and "
            f"{policy.model.vision_blocks} vision blocks, the model has {depth[0]} and {depth[1]}; "
            "translate it with policy.for_model(anatomy)"
        )
    if policy.positions not in family.positions:
        raise UnsupportedError(
            f"positions: {policy.positions!r} is not supported for {anatomy.family}; "
            f"allowed: {', '.join(family.positions)}"
        )
    last = {"decoder": anatomy.decoder.layers - 1, "vision": anatomy.vision.blocks_used - 1}
    available = set(SIGNALS) - set(family.signals_absent) - set(OF_TEXT_ENCODER)
    for i, stage in enumerate(policy.stages):
        where = f"stages[{i}]"
        if stage.site not in family.sites:
            why = family.refusals.get(stage.site)
            raise UnsupportedError(
                f"{where}.site: {stage.site!r} is not supported for {anatomy.family}{f': {why}' if why else ''}"
            )
        if stage.layer is not None and stage.layer > last[stage.site]:
            raise PolicyError(
                f"{where}.layer: {stage.layer} is beyond this model; allowed at site '{stage.site}': "
                f"1..{last[stage.site]}"
            )
        try:
            reducer = make_reducer(stage.reducer, stage.params)
        except SpecError as error:
            known = stage.reducer in reducers.names()
            raise PolicyError(f"{where}.{'params' if known else 'reducer'}: {error}") from error
        if stage.site not in reducer.sites:
            raise PolicyError(
                f"{where}.site: {stage.reducer} is not made for site '{stage.site}'; its sites: "
                f"{', '.join(reducer.sites)}. At '{stage.site}' these fit: {_fitting(stage.site, available)}"
            )
        missing = resolve_needs(type(reducer), available)[1]
        if missing:
            raise UnsupportedError(
                f"{where}.reducer: {stage.reducer} needs {_named(missing)}, which {anatomy.family} does not have. "
                f"At '{stage.site}' these fit: {_fitting(stage.site, available)}"
            )
        if reducer.size_bias and stage.site != "vision":
            raise UnsupportedError(f"{where}.reducer: size bias is only supported at site 'vision'")


def _named(missing: Sequence[str]) -> str:
    """Say what a tower would have to have for the missing signals."""
    lacks = {
        "a CLS row": OF_CLS_ROW,
        "one sequence an image in the tower": OF_ONE_SEQUENCE_AN_IMAGE,
        "a CLIP text encoder": OF_TEXT_ENCODER,
    }
    what = [words for words, signals in lacks.items() if set(missing) & set(signals)]
    return f"{', '.join(missing)} ({' and '.join(what)})" if what else ", ".join(missing)


def _fitting(site: str, available: set[str]) -> str:
    """Return the reducers that can stand at a site of a model with these signals."""
    names = [c.name for c in reducers.all() if site in c.sites and not resolve_needs(c, available)[1]]
    return ", ".join(names) if names else "none"


def plan_of(policy: Policy, adapter: ModelAdapter, processor: Any = None) -> Plan:
    """Return a policy's steps with the signals to compute; a processor may know questions, or bring a text encoder."""
    absent = adapter.signals_absent
    if not hasattr(processor, "questions"):
        absent = (*absent, *OF_PROCESSOR)
    if getattr(processor, "text_encoder", None) is None:
        absent = (*absent, *OF_TEXT_ENCODER)
    return Plan(policy, absent)


class Compression:
    """A policy attached to a model, until `remove` (or the end of the `with` block).

    Attributes:
        policy: what is applied.
        processor: the processor that was given; wrapped in place where the policy has an `input` stage.
        ids: (B,) a number of each example, for reducers that draw at random; None: a hash of the prompt.
    """

    def __init__(
        self, model: nn.Module, policy: Policy, processor: Any = None, anatomy: Anatomy | None = None
    ) -> None:
        self.model, self.policy = model, policy
        self.adapter: ModelAdapter = adapter_for(model)
        self.anatomy = anatomy_of(model) if anatomy is None else anatomy
        check(policy, self.anatomy)
        _check_model(model, self.adapter)
        plan = plan_of(policy, self.adapter, processor)
        if plan.of("input") and processor is None:
            raise UnsupportedError(
                "compress: an 'input' stage resizes images before the model sees them: pass "
                "processor=..., and make the inputs with it inside the with block"
            )
        self.tower = Tower(self.adapter, plan, plan.needs("projector", "decoder"))
        self.decoder = Decoder(self.adapter, plan, policy.positions == "compact", self.tower)
        self.plan = plan
        self.processor = self.decoder.sight.processor = processor
        self._handles: list[RemovableHandle] = []
        self._tap: Tap | None = None
        self._wrapped: WrappedProcessor | None = None
        setattr(model, ATTACHED, self)
        try:
            self._attach(processor)
        except BaseException:
            self.remove()
            raise

    def _attach(self, processor: Any) -> None:
        if not self.plan.steps:
            return
        self._handles += self.tower.attach()
        self._handles += self.decoder.attach()
        watchers = {**self.tower.watchers(), **self.decoder.watchers()}
        if watchers:
            self._tap = Tap(watchers)
        step = self.plan.at("input")
        if step is not None:
            images = getattr(processor, "image_processor", None)
            settings = {
                "size": dict(getattr(images, "size", None) or {}),
                "max_patches": getattr(images, "max_patches", None),
            }
            rule = self.adapter.image_rule(self.anatomy.image, settings)
            self._wrapped = WrappedProcessor(processor, step.stage, rule, self.adapter.image_token)
            self.decoder.announce = self._announce
        model: Any = self.model
        model.generate = functools.partial(_checked_generate, self, model.generate)

    def _announce(self, ids: Tensor, mask: Tensor | None) -> None:
        """Tell the tower how large the images of these prompts were before they were resized."""
        if self._wrapped is not None:
            self.tower.given = self._wrapped.originals(ids, mask)

    def remove(self) -> None:
        """Take every hook off; the model is as it was. Safe to call twice."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.tower.detach()
        if self._wrapped is not None:
            self._wrapped.remove()
            self._wrapped = None
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        self.model.__dict__.pop("generate", None)
        if getattr(self.model, ATTACHED, None) is self:
            delattr(self.model, ATTACHED)

    def __enter__(self) -> Compression:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def attached(self) -> bool:
        """Whether the policy is still on the model."""
        return getattr(self.model, ATTACHED, None) is self

    @property
    def ids(self) -> Tensor | None:
        """(B,) int64, a number of each example."""
        return self.decoder.sight.ids

    @ids.setter
    def ids(self, ids: Tensor | None) -> None:
        self.decoder.sight.ids = self.tower.ids = ids

    @property
    def trace(self) -> list[dict[str, Any]]:
        """What the latest prefill did: a record a stage with `stage`, `asked` (I,) and `kept` (I,), I
        images.
        """
        run = self.decoder.run
        return [] if run is None else run.ledger.trace

    @property
    def decisions(self) -> Mapping[int, Assignment | None]:
        """The latest prefill's assignment of each stage; None where the stage changed nothing."""
        run = self.decoder.run
        return {} if run is None else run.ledger.decisions

    @property
    def kept(self) -> list[list[int]]:
        """The original indices of each image's tokens that the last decoder layer saw."""
        run = self.decoder.run
        if run is None:
            return []
        images = run.current.images
        return [s[v].tolist() for s, v in zip(images.source, images.valid, strict=True)]

    @property
    def assignments(self) -> list[Tensor]:
        """What became of each image: (K, N) weights of the latest prefill, stages composed, over original
        tokens.
        """
        return composed(self)


def composed(compression: Compression) -> list[Tensor]:
    """Return the product of the latest prefill's assignments, one dense (K, N) matrix an image."""
    run = compression.decoder.run
    if run is None:
        return []
    out = []
    decided = sorted((i, a) for i, a in run.ledger.decisions.items() if a is not None)
    images = run.prompt.images
    whole: Assignment | None = None
    for _, assignment in decided:
        whole = assignment if whole is None else whole.compose(assignment, images.size)
    matrix = None if whole is None else whole.dense(images.size)
    for row, (t, h, w) in enumerate(images.grids):
        n = t * h * w
        if whole is None or matrix is None:
            out.append(images.size.new_ones(n).diag())
        else:
            out.append(matrix[row, whole.valid[row], :n])
    return out


def compress(model: nn.Module, policy: Policy, processor: Any = None) -> Compression:
    """Apply a policy to a model: `generate` and forward calls are accelerated until it is removed.

    Args:
        model: a supported Hugging Face model.
        policy: written for this family and depth.
        processor: needed by policies with an `input` stage; make the inputs with the result's `.processor`.

    Returns:
        A context manager with `.remove()` and `.trace`.

    Raises:
        PolicyError, UnsupportedError: see `check`; also an attention implementation, a sliding window, a
        sharded
            model or a second policy on the same model.
    """
    if policy.status == "unverified" and policy.stages:
        _warn_unverified(policy)
    return Compression(model, policy, processor)


_warned: set[str] = set()


def _warn_unverified(policy: Policy) -> None:
    """Warn once a policy."""
    if policy.id not in _warned:
        _warned.add(policy.id)
        warnings.warn(
            "autotc: this policy is unverified on this model; check it with: "
            "autotc verify policy.json --model DIR --data FILE",
            stacklevel=3,
        )


def _check_model(model: nn.Module, adapter: ModelAdapter) -> None:
    """Refuse by name what is not tested."""
    if getattr(model, ATTACHED, None) is not None:
        raise UnsupportedError("compress: the model already has a policy; remove it first (handle.remove())")
    towers = [
        ("language model", adapter.text.config),
        ("vision tower", getattr(adapter.tower, "config", None)),
    ]
    for what, config in towers:
        implementation = base_name(getattr(config, "_attn_implementation", None))
        if implementation not in BASES:
            raise UnsupportedError(
                f"compress: {what}: attention {implementation!r} is not supported; load the model with "
                "attn_implementation='sdpa' (or 'eager')"
            )
    kinds: Sequence[str] = getattr(adapter.text.config, "layer_types", None) or ()
    if set(kinds) - {"full_attention"}:
        raise UnsupportedError(
            "compress: sliding-window attention is not supported; use full attention layers only"
        )
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        raise UnsupportedError(
            "compress: a model sharded over several devices is not supported; load it on one"
        )


def _checked_generate(compression: Compression, generate: Any, *args: Any, **kwargs: Any) -> Any:
    """Run `generate` unless it asks for something that is refused until tested."""
    config = kwargs.get("generation_config") or getattr(compression.model, "generation_config", None)
    for name, what in _REFUSED_GENERATE.items():
        if kwargs.get(name) is not None or getattr(config, name, None) is not None:
            raise UnsupportedError(f"compress: generate({name}=...): {what} is not supported; leave it out")
    kind = kwargs.get("cache_implementation") or getattr(config, "cache_implementation", None)
    if kind not in (None, "dynamic"):
        raise UnsupportedError(
            f"compress: generate(cache_implementation={kind!r}) is not supported; leave it out"
        )
    if kwargs.get("past_key_values") is not None:
        check_cache(kwargs["past_key_values"])
    ids = kwargs.get("input_ids", args[0] if args else kwargs.get("inputs"))
    if isinstance(ids, Tensor):
        compression._announce(ids, kwargs.get("attention_mask"))
    return generate(*args, **kwargs)
