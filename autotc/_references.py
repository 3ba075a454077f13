"""What a policy is compared with on the same examples: the uncompressed model, and the blind one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from autotc._batches import Batch
from autotc._run import new_run
from autotc._score import Answers, Scores, State, blind, greedy, padded, score
from autotc._stages import Ledger
from autotc.apply import Prefilled, Prefix
from autotc.processing import Processor
from autotc.task import Example, Split, Task

MOVED = 0.1  # the image moves a token when its probability changes by more than this without the image
NEW_TOKENS = 16  # length of the uncompressed model's own answers where the data has none
WHOLE_VOCABULARY = 4096  # up to this size KL is over all tokens, above over the likeliest ones and the rest
LIKELIEST = 512

Known = TypeVar("Known")


class References:
    """Runs the references once an example.

    The right answer of an example is the reference answer as the data has it; where the uncompressed model
    gives the same answer in its own wording (as the task scores it), that wording is the one that counts.
    Without answers in the data, the right answer is the uncompressed model's own.

    Args:
        model: with no policy attached.
        adapter: of the model.
        processor: of the model.
        task: the data.
        new_tokens: length of the model's own answers where the data has none.
    """

    def __init__(self, model: Any, adapter: Any, processor: Processor, task: Task, new_tokens: int) -> None:
        self.adapter, self.processor, self.task = adapter, processor, task
        self._new_tokens = new_tokens
        self.stop = _stop_tokens(model, processor)
        self._answers: dict[tuple[str, str], tuple[list[int], list[int]]] = {}

    def run(
        self,
        batch: Batch,
        split: Split,
        prefix: Prefix,
        capture: Callable[[list[Example]], list[tuple[list[Example], Prefix]]],
    ) -> None:
        """Fill in a batch's siblings, answers, and the scores of the references.

        Args:
            batch: with its inputs made.
            split: it is from.
            prefix: its uncompressed prefill, decoder states included.
            capture: gives the prefills of other examples, whose answers are needed too.
        """
        siblings = [self.task.sibling(split, example) for example in batch.examples]
        inside = {example.id: place for place, example in enumerate(batch.examples)}
        batch.siblings = [-1 if other is None else inside.get(other.id, -1) for other in siblings]
        whole = _whole_state(prefix)
        self._answer(batch.examples, split, whole)
        outside = {o.id: o for o in siblings if o is not None and (split, o.id) not in self._answers}
        for others, found in capture(list(outside.values())) if outside else ():
            self._answer(others, split, _whole_state(found))
        own = [self._answers[split, e.id][0] for e in batch.examples]
        target = [self._answers[split, e.id][1] for e in batch.examples]
        asked, back = self._ask(batch, siblings)
        wanted = [[] if o is None else self._answers[split, o.id][1] for o in siblings]
        device = whole.logits.device
        answers = Answers(
            padded(target, device),
            padded(own, device),
            padded(asked, device)
            if any(asked)
            else torch.zeros(len(own), 0, dtype=torch.long, device=device),
            padded(wanted, device),
            torch.tensor(back, device=device),
        )
        partly = not self.task.answered
        full = score(self.adapter, whole, answers, partly=partly, keep=True)
        dark = blind(self.adapter, prefix.input_ids, _positions(prefix), whole)
        sightless = score(self.adapter, dark, answers, with_next=False, partly=partly, keep=True)
        batch.answers = _compared(answers, full, sightless)
        no_change = torch.where(known(batch.answers.moved).any(1), 0.0, torch.nan)
        batch.full = replace(full, kl=no_change, own_logits=None)
        batch.blind = replace(sightless, own_logits=None)
        batch.pictures = {}

    def own(self, split: str, examples: Sequence[Example]) -> list[list[int]]:
        """Return the tokens that the uncompressed model writes by itself of examples that were run."""
        return [self._answers[split, e.id][0] for e in examples]

    def limit(self, example: Example) -> int:
        """Return how many tokens an example's answer may have: two more than the one in the data."""
        if example.answer is None:
            return self._new_tokens
        return len(self.processor.answer_ids(example.answer)) + 2

    def _answer(self, examples: Sequence[Example], split: str, whole: State) -> None:
        """Write down the uncompressed model's own answer of each example, and the tokens that count as
        right.
        """
        given = [None if e.answer is None else self.processor.answer_ids(e.answer) for e in examples]
        limits = [self.limit(e) for e in examples]
        # each has a length of its own, so that it does not depend on what stands beside it in a batch
        own = [
            ids[:limit]
            for ids, limit in zip(greedy(self.adapter, whole, max(limits), self.stop), limits, strict=True)
        ]
        texts = self.processor.batch_decode(own, skip_special_tokens=True)
        for example, mine, text, ids in zip(examples, own, texts, given, strict=True):
            right = ids is None or self.task.score(example, text) >= 1.0
            self._answers[split, example.id] = (mine, mine if right or ids is None else ids)

    def _ask(self, batch: Batch, siblings: Sequence[Example | None]) -> tuple[list[list[int]], list[int]]:
        """Return the tokens of each other question from where its prompt differs, and what they stand in
        for.
        """
        asked: list[list[int]] = []
        back: list[int] = []
        for place, (example, other) in enumerate(zip(batch.examples, siblings, strict=True)):
            if other is None:
                asked.append([])
                back.append(0)
                continue
            images = batch.images[place]
            mine, theirs = (
                self.processor.tokenizer(self.processor.prompt(e.question, images))["input_ids"]
                for e in (example, other)
            )
            last = max(i for i, token in enumerate(mine) if token == self.processor.image_token_id)
            shared = next(
                (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b),
                min(len(mine), len(theirs)),
            )
            # at least one token is asked, so that the answer's first token has something to follow
            shared = max(last + 1, min(shared, len(mine) - 1, len(theirs) - 1))
            asked.append(list(theirs[shared:]))
            back.append(len(mine) - shared)
        return asked, back


def known(value: Known | None) -> Known:
    """Return what a batch holds once its references have been run."""
    if value is None:
        raise RuntimeError("the batch has no references yet")
    return value


def state_of(prefilled: Prefilled) -> State:
    """Return a prefill under a policy as the scorer takes it."""
    run, layers = prefilled.run, prefilled.cache.layers
    return State(
        [layer.keys for layer in layers],
        [layer.values for layer in layers],
        [run.layouts[i] for i in range(len(layers))],
        prefilled.logits.float(),
        run.next,
        3 if run.three_rows else 1,
        run.input_ids.shape[1],
    )


def _whole_state(prefix: Prefix) -> State:
    """Return the uncompressed prefill as the scorer takes it."""
    run = new_run(
        prefix.input_ids,
        prefix.layout,
        prefix.text["inputs_embeds"],
        prefix.text["position_ids"],
        Ledger(None),
        prefix.images,
    )
    run.layouts = dict.fromkeys(range(len(prefix.cache.layers)), run.prompt)
    return state_of(Prefilled(prefix.logits, prefix.cache, run))


def _positions(prefix: Prefix) -> Tensor:
    """Return the rotary positions (P, B, N) of whole prompts."""
    positions: Tensor = prefix.text["position_ids"]
    return positions[-3:] if positions.ndim == 3 else positions[None].expand(1, len(prefix.input_ids), -1)


def _compared(answers: Answers, full: Scores, sightless: Scores) -> Answers:
    """Add what later policies are compared with: the full model's probabilities, and which tokens need the
    image.
    """
    assert full.own_logits is not None and sightless.own_logits is not None
    logp, dark = full.own_logits.log_softmax(-1), sightless.own_logits.log_softmax(-1)
    own = answers.own.clamp_min(0)[..., None]
    gain = (logp.gather(-1, own).exp() - dark.gather(-1, own).exp())[..., 0]
    moved = (gain.abs() > MOVED) & (answers.own >= 0)
    if logp.shape[-1] <= WHOLE_VOCABULARY:
        return replace(answers, logp=logp, moved=moved)
    top, kept = logp.topk(LIKELIEST, dim=-1)
    rest = (1 - top.exp().sum(-1, keepdim=True)).clamp_min(1e-9).log()
    return replace(answers, logp=torch.cat([top, rest], -1), kept=kept, moved=moved)


def _stop_tokens(model: Any, processor: Processor) -> list[int]:
    """Return the tokens at which the model stops."""
    config = getattr(model, "generation_config", None)
    found = getattr(config, "eos_token_id", None)
    found = list(found) if isinstance(found, list | tuple) else [] if found is None else [found]
    own = processor.tokenizer.eos_token_id
    return sorted({*found, *([] if own is None else [own])})
