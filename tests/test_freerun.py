"""What is written freely equals `generate`, and is counted as it should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import autotc
from autotc._freerun import Written, same_tokens
from autotc.evaluate import Evaluator
from tests.evaluate_fixtures import Toy
from tests.test_evaluate import SIZES, evaluator, made, model, task


@pytest.mark.parametrize(
    ("family", "name"),
    [("qwen", "decoder"), ("qwen", "received"), ("llava", "input"), ("internvl", "merge")],
)
def test_what_is_written_freely_is_what_generate_writes_under_the_policy(family: str, name: str) -> None:
    built, processor = model(family)
    chosen = made(family, name).model_copy(update={"status": "verified"})  # so that compress does not warn
    examples = task(family).examples("search", 8)
    found = evaluator(family).free_running(chosen, "search", 8)
    texts = []
    for example in examples:  # one by one, so that neither padding nor another answer's length can matter
        longest = evaluator(family)._references.limit(example)
        with torch.inference_mode(), autotc.compress(built, chosen, processor) as handle:
            inputs = handle.processor.inputs([example.load()], [example.question])
            out = built.generate(**inputs, do_sample=False, max_new_tokens=longest)
            texts += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert found.answer.tolist() == texts
    assert found.correct.tolist() == [task(family).score(e, t) for e, t in zip(examples, texts, strict=True)]
    assert len(set(texts)) > 1 and any(len(t.split()) > 1 for t in texts)
    assert (found.answer != found.own).any(), "a policy that changes nothing would hide a missing policy"


def test_without_a_policy_it_is_the_uncompressed_models_own_answer() -> None:
    found = evaluator("qwen").free_running(None, "search", 8)
    assert found.answer.tolist() == found.own.tolist()
    assert found.same.min() == found.forced.min() == 1.0
    scored = evaluator("qwen").evaluate(None, "search", 8)
    np.testing.assert_array_equal(found.correct, scored.correct)


@pytest.mark.parametrize("name", ["mild", "tome", "input"])
def test_what_scores_right_token_by_token_is_written_right(name: str) -> None:
    found = evaluator("qwen").free_running(made("qwen", name), "search", 12)
    scored = evaluator("qwen").evaluate(made("qwen", name), "search", 12)
    assert (found.correct >= scored.correct).all()
    np.testing.assert_array_equal(found.forced, scored.agreement)


def test_data_without_answers_counts_exact_matches_with_the_models_own_answer() -> None:
    built, processor = model("qwen")
    plain = Evaluator(built, Toy(SIZES, images=6, answers=False), processor=processor, batch=4, new_tokens=2)
    found = plain.free_running(made("qwen", "both"), "search", 8)
    (number,) = found.numbers()
    assert np.isnan(found.correct).all() and found.as_dict()["correct"] is None
    assert (number.name, number.unit, number.value) == ("free_running", "exact match", found.same.mean())
    assert 0 < found.same.mean() < 1
    # an answer stays the same exactly where every token of the own answer is still the likeliest after the ones before
    np.testing.assert_array_equal(found.same == 1, found.forced == 1)


def test_increments_join() -> None:
    whole = evaluator("qwen").free_running(made("qwen", "both"), "search", 8)
    both = evaluator("qwen").free_running(made("qwen", "both"), "search", 4)
    both = both + evaluator("qwen").free_running(made("qwen", "both"), "search", 4, start=4)
    assert both.answer.tolist() == whole.answer.tolist() and both.id.tolist() == whole.id.tolist()


STOP = [9]


@pytest.mark.parametrize(
    ("mine", "own", "expected"),
    [
        ([1, 2, 9], [1, 2, 9], True),
        ([1, 9], [1, 2, 9], False),
        ([1, 2, 3, 9], [1, 2, 9], False),
        ([1, 2, 3], [1, 2], True),  # the own answer was cut off: compared as far as it goes
        ([1, 3, 3], [1, 2], False),
        ([1], [1, 2], False),
    ],
)
def test_same_tokens(mine: list[int], own: list[int], expected: bool) -> None:
    assert same_tokens(mine, own, STOP) is expected


def test_numbers_are_clustered_by_image_and_carry_unit_and_n() -> None:
    texts = np.array(["a", "b", "c", "d"], dtype=object)
    written = Written(
        split="held-out",
        on="proxy:toy",
        answered=True,
        id=texts,
        image=np.array(["i", "i", "j", "j"]),
        answer=texts,
        own=texts,
        correct=np.array([1.0, 1.0, 0.0, 0.0]),
        same=np.ones(4),
        forced=np.full(4, 0.5),
    )
    (found,) = written.numbers()
    assert (found.value, found.unit, found.n, found.split) == (0.5, "accuracy", 4, "held-out")
    # two images with residual sums +1 and -1: sqrt(2 * 2 / 1) / 4
    assert found.stderr == pytest.approx(math.sqrt(2 * 2) / 4)
    assert written.as_dict()["forced"]["value"] == 0.5
