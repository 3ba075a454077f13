"""Running a policy on examples: what it keeps, what it costs in answers.

The prompt alone is run under the policy; answers are scored afterwards in one chunk against the pruned cache,
so no answer can influence what is kept. Every figure compares with two references on the same examples: the
uncompressed model, and the model without any visual token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotc import _outcomes
from autotc._batches import (
    Batch,
    Inputs,
    PrefixStore,
    batch_size,
    cut,
    make_inputs,
    new_batch,
    recorded_tower,
    resumed_tower,
)
from autotc._freerun import Part, Written, collect
from autotc._inputs import resized
from autotc._outcomes import Outcomes
from autotc._references import NEW_TOKENS, References, known, state_of
from autotc._same import same_pictures
from autotc._score import Scores, greedy, score
from autotc.adapter import adapter_for
from autotc.adapter import anatomy as anatomy_of
from autotc.apply import (
    Compression,
    Prefilled,
    Prefix,
    capture,
    check,
    look_again,
    plan_of,
    prefill,
    resume,
)
from autotc.errors import DataError, UnsupportedError
from autotc.policy import Number, Policy, Stage
from autotc.processing import Processor, load_model
from autotc.reducer import reducers
from autotc.task import Example, Split, Task


class Evaluator:
    """Evaluates policies on one model and one data set; holds the model and everything policies can share.

    Args:
        model: a model folder, or a built model together with its `processor`.
        task: the data.
        batch: examples that run together, at most; fewer where prompts are large.
        threads: of torch; None leaves them as they are.
        dtype: of the weights when a folder is loaded.
        reuse: start each policy at its first site from a captured prefill; same results, faster.
        device: where a folder is loaded to.
        processor: of a built model.
        on: what numbers name the model; default: the folder, or "proxy:NAME" for a proxy that ships with
            autotc.
        new_tokens: length of the uncompressed model's own answers where the data has none.
        limit_bytes: bound of what is held between policies; default: a quarter of the free memory, at most 6 GiB.
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        task: Task,
        *,
        batch: int = 32,
        threads: int | None = None,
        dtype: str = "float32",
        reuse: bool = True,
        device: str = "cpu",
        processor: Processor | None = None,
        on: str | None = None,
        new_tokens: int = NEW_TOKENS,
        limit_bytes: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if isinstance(model, nn.Module):
            if processor is None:
                raise ValueError("a built model needs its processor")
            self.model: Any = model
            self.processor = processor
            name = str(getattr(model.config, "name_or_path", "") or type(model).__name__)
        else:
            self.model, self.processor = load_model(model, device=device, dtype=dtype)
            name = str(model)
        self.on = on or _named(name)
        self.task, self.reuse = task, reuse
        self.adapter: Any = adapter_for(self.model)
        self.anatomy = anatomy_of(self.model)
        self.device = str(next(self.model.parameters()).device)
        if self.adapter.text.config._attn_implementation != "sdpa":
            raise UnsupportedError("evaluate: load the model with attn_implementation='sdpa'")
        self._batch, self._held_bytes = batch, 0
        self._prefixes = PrefixStore(limit_bytes)
        self._seen: set[Hashable] = set()
        self._requests: dict[tuple[str, int, int], list[tuple[list[int], Batch]]] = {}
        self._batches: dict[Any, Batch] = {}
        self._pixels: dict[str, list[tuple[int, int]]] = {}
        self._references = References(self.model, self.adapter, self.processor, task, new_tokens)

    @torch.inference_mode()
    def evaluate(self, policy: Policy | None, split: Split, n: int, *, start: int = 0) -> Outcomes:
        """Run a policy on examples start..start+n-1 of a split; fewer where there are no more.

        Args:
            policy: written for this very model (see `Policy.for_model`); None: no compression.
            split: which split.
            n, start: increments of one evaluation join with `+`.

        Raises:
            PolicyError, UnsupportedError: the policy does not fit the model.
            DataError: a corrupt image, or a split that ends before `start`.
        """
        begin = time.perf_counter()
        if policy is not None:
            check(policy, self.anatomy)
        self._prefixes.begin()
        request = self._get_batches(split, start, n)
        stages = policy.stages if policy is not None else ()
        if policy is not None and stages:
            aware = any(reducers.get(stage.reducer).query_aware for stage in stages)
            results = self._run(
                policy, [batch for _, batch in request], lambda b, state: self._score(b, state, aware)
            )
        else:
            results = [(known(batch.full), []) for _, batch in request]
        parts = [(*one, scores) for one, (scores, _) in zip(request, results, strict=True)]
        images = sum(len(self._pixels[e.id]) for _, batch in request for e in batch.examples)
        trace = _trace(stages, [t for _, t in results], images)
        return self._join(split, parts, trace, time.perf_counter() - begin)

    @torch.inference_mode()
    def free_running(self, policy: Policy | None, split: Split, n: int, *, start: int = 0) -> Written:
        """Let the model write its answers itself, greedily, on examples start..start+n-1 of a split.

        An answer ends with a stop token, or where no right one would go on, see `References.limit`.

        Args:
            policy, split, n, start: as for `evaluate`.

        Raises:
            PolicyError, UnsupportedError, DataError: as `evaluate`.
        """
        if policy is not None:
            check(policy, self.anatomy)
        self._prefixes.begin()
        request = self._get_batches(split, start, n)
        own = [self._references.own(split, batch.examples) for _, batch in request]
        if policy is not None and policy.stages:
            results = self._run(
                policy, [batch for _, batch in request], lambda b, s: self._write(b, s, split)
            )
        else:
            results = [((tokens, torch.ones(len(tokens))), []) for tokens in own]
        parts = [
            Part(places, batch.examples, tokens, reference, agrees.tolist())
            for (places, batch), reference, ((tokens, agrees), _) in zip(request, own, results, strict=True)
        ]
        return collect(split, self.on, self.task, self.processor, self._references.stop, parts)

    def numbers(self, outcomes: Outcomes) -> list[Number]:
        """Return quality, worst group, grounded score, agreement, KL and next question with standard
        errors.
        """
        return _outcomes.numbers(outcomes)

    def forget(self) -> None:
        """Drop the captured prefills; answers and references stay."""
        self._prefixes.clear()

    # the policy

    def _run(
        self, policy: Policy, batches: Sequence[Batch], finish: Callable[[Batch, Prefilled], Any]
    ) -> list[tuple[Any, list[dict[str, Any]]]]:
        """Run the prompts of batches under a policy; return what `finish` makes of each prefill, and its trace."""
        first = policy.stages[0]
        resize = first if first.site == "input" else None
        resumable = self.reuse and all(stage.site != "vision" for stage in policy.stages)
        plan = plan_of(policy, self.adapter, self.processor)
        out = []
        compression: Compression | None = None
        try:
            for batch in batches:
                prefix = self._prefixes.get(self._key(batch, resize)) if resumable else None
                inputs = None
                unseen = set() if prefix is None else plan.tower_signals() - set(prefix.tower.signals)
                if prefix is None or unseen:
                    if compression is not None:  # its hooks and its processor are not for what follows
                        compression.remove()
                        compression = None
                    if resumable and prefix is None and self._comes_again(batch, resize):
                        prefix = self._capture(batch, resize)
                        unseen = plan.tower_signals() - set(prefix.tower.signals)
                    if prefix is None:
                        inputs = self._inputs(batch, resize)
                    elif unseen:
                        look_again(self.model, prefix, self._inputs(batch, resize).tensors, unseen)
                if compression is None:
                    compression = Compression(self.model, policy, self.processor, self.anatomy)
                compression.ids = batch.numbers
                if inputs is not None:
                    states = (
                        self._prefixes.get((batch.key, "tower")) if self.reuse and resize is None else None
                    )
                    with nullcontext() if states is None else resumed_tower(compression, states):
                        state = prefill(
                            compression, inputs.tensors, original=inputs.original, same=inputs.same
                        )
                else:
                    state = resume(compression, known(prefix))
                # what follows drives the layers itself: the hooks must not take it for a prefill
                compression.decoder.run = None
                out.append((finish(batch, state), state.trace))
        finally:
            if compression is not None:
                compression.remove()
        return out

    def _score(self, batch: Batch, prefilled: Prefilled, aware: bool) -> Scores:
        inside = not aware and all(place >= 0 for place in batch.siblings)
        scores = score(
            self.adapter, state_of(prefilled), known(batch.answers), not inside, partly=not self.task.answered
        )
        if inside:
            # what is kept does not depend on the question: the other question's own score is the answer
            scores = replace(scores, next_correct=scores.correct[batch.siblings])
        return scores

    def _write(self, batch: Batch, prefilled: Prefilled, split: str) -> tuple[list[list[int]], Tensor]:
        """Return what the model writes by itself, and its teacher-forced agreement."""
        state, references = state_of(prefilled), self._references
        limits = [references.limit(e) for e in batch.examples]
        tokens = greedy(self.adapter, state, max(limits), references.stop)
        agrees = score(self.adapter, state, known(batch.answers), with_next=False).agreement
        return [t[:limit] for t, limit in zip(tokens, limits, strict=True)], agrees

    # the data

    def _get_batches(self, split: Split, start: int, n: int) -> list[tuple[list[int], Batch]]:
        """Return batches of a request, each with the places of its examples in the request."""
        key = (split, start, n)
        if key not in self._requests:
            examples = list(self.task.examples(split, start + n))[start:]
            if not examples:
                raise DataError(f"{self.task.name}: the {split} split has no example number {start}")
            request = self._cut(examples, split, start)
            for _, batch in request:
                if batch.answers is None:
                    self._references.run(
                        batch, split, self._capture(batch, None), self._capture_others(split)
                    )
                    batch.pictures = {}
                    self._batches[batch.key] = batch
            self._requests[key] = request
        return self._requests[key]

    def _cut(self, examples: Sequence[Example], split: str, start: int) -> list[tuple[list[int], Batch]]:
        """Divide examples into batches, those that were made before included."""
        pictures = {}
        for example in examples:
            if example.id not in self._pixels:
                pictures[example.id] = example.load()
                self._pixels[example.id] = [picture.size for picture in pictures[example.id]]
        sizes = [
            sum(self.anatomy.visual_tokens(*s, len(self._pixels[e.id])) for s in self._pixels[e.id])
            for e in examples
        ]
        most = batch_size(self.anatomy, max(sizes) + 64, self._batch)
        out = []
        for places in cut(sizes, start, most):
            batch = new_batch(split, [examples[i] for i in places], self.device)
            if batch.key in self._batches:
                batch = self._batches[batch.key]
            else:
                batch.pictures = {e.id: pictures[e.id] for e in batch.examples if e.id in pictures}
            out.append((places, batch))
        return out

    def _inputs(self, batch: Batch, resize: Stage | None) -> Inputs:
        """Return a batch's tensors; those of the data's own resolution are kept as far as they fit."""
        if batch.inputs is not None and resize is None:
            return batch.inputs
        made = self._made(batch, resize)
        size = sum(tensor.nbytes for tensor in made.tensors.values())
        if resize is None and self._held_bytes + size <= self._prefixes.limit_bytes // 4:
            self._held_bytes += size
            batch.inputs = made
        return made

    def _made(self, batch: Batch, resize: Stage | None) -> Inputs:
        """Make a batch's tensors, with the pictures that several of its examples ask about."""
        made = make_inputs(batch, self.processor, self.anatomy, resize, self.device)
        keys = [e.image for e, n in zip(batch.examples, batch.images, strict=True) for _ in range(n)]
        made.same = same_pictures(self.adapter, made.tensors, keys)
        return made

    def _key(self, batch: Batch, resize: Stage | None) -> Hashable:
        """Name what is captured: budgets that show the model the same grids share it."""
        if resize is None:
            return batch.key, None
        rule = self.anatomy.image
        shown = [[resized(rule, resize, *size)[1] for size in self._pixels[e.id]] for e in batch.examples]
        return batch.key, str(shown)

    def _comes_again(self, batch: Batch, resize: Stage | None) -> bool:
        """Whether a prefill is worth capturing: a new image size pays for it only when it is asked for twice."""
        key = self._key(batch, resize)
        seen = resize is None or key in self._seen
        self._seen.add(key)
        return seen

    def _capture(self, batch: Batch, resize: Stage | None) -> Prefix:
        inputs = self._inputs(batch, resize)
        with recorded_tower(self.adapter) as states:
            prefix = capture(self.model, inputs.tensors, original=inputs.original, same=inputs.same)
        if self.reuse:
            self._prefixes.put(self._key(batch, resize), prefix)
            if resize is None:
                self._prefixes.put_tower((batch.key, "tower"), states)
        return prefix

    def _capture_others(self, split: str) -> Callable[[list[Example]], list[tuple[list[Example], Prefix]]]:
        """Return a function that captures examples outside the request; nothing of theirs is kept."""

        def captured(examples: list[Example]) -> list[tuple[list[Example], Prefix]]:
            out = []
            for _, batch in self._cut(examples, split, 0):
                inputs = self._made(batch, None)
                out.append((batch.examples, capture(self.model, inputs.tensors, same=inputs.same)))
            return out

        return captured

    # results

    def _join(
        self,
        split: str,
        parts: Iterable[tuple[list[int], Batch, Scores]],
        trace: list[dict[str, Any]],
        seconds: float,
    ) -> Outcomes:
        rows: list[tuple[int, Example, dict[str, Any]]] = []
        for places, batch, scores in parts:
            columns = {
                "correct": scores.correct.tolist(),
                "full": known(batch.full).correct.tolist(),
                "blind": known(batch.blind).correct.tolist(),
                "agreement": scores.agreement.tolist(),
                "kl": scores.kl.tolist(),
                "next_correct": scores.next_correct.tolist(),
                "answer": self._texts(scores.tokens, known(batch.answers).target),
            }
            for i, (place, example) in enumerate(zip(places, batch.examples, strict=True)):
                rows.append((place, example, {name: values[i] for name, values in columns.items()}))
        rows.sort(key=lambda row: row[0])
        arrays: dict[str, Any] = {
            name: np.array([row[2][name] for row in rows], dtype=float) for name in _outcomes.FLOATS
        }
        arrays["answer"] = np.array([row[2]["answer"] for row in rows], dtype=object)
        for name in ("id", "image", "group"):
            arrays[name] = np.array([getattr(row[1], name) for row in rows], dtype=object)
        return Outcomes(split, self.on, self.task.metric, **arrays, trace=trace, seconds=seconds)

    def _texts(self, tokens: Tensor, target: Tensor) -> list[str]:
        cut_off = [
            [t for t, wanted in zip(row, right, strict=True) if wanted >= 0]
            for row, right in zip(tokens.tolist(), target.tolist(), strict=True)
        ]
        return self.processor.batch_decode(cut_off, skip_special_tokens=True)


def _trace(
    stages: Sequence[Stage], traces: Sequence[list[dict[str, Any]]], images: int
) -> list[dict[str, Any]]:
    """Return by stage the means over images of tokens asked and kept; an image may have several rows."""
    out = []
    for index, stage in enumerate(stages):
        found = [entry for trace in traces for entry in trace if entry["stage"] == index]
        means = {
            name: float(torch.cat([entry[name].flatten().cpu().float() for entry in found]).sum() / images)
            for name in ("asked", "kept")
        }
        out.append({"site": stage.site, "layer": stage.layer, "reducer": stage.reducer, **means})
    return out


def _named(name: str) -> str:
    path = Path(name)
    inside = Path(__file__).parent / "proxies"
    return f"proxy:{path.name}" if path.is_dir() and path.resolve().parent == inside.resolve() else name
