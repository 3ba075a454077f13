"""The signal `text_keywords` in a model with its processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autotc.apply import capture, compress, prefill, resume
from autotc.policy import Stage
from autotc.processing import load_model
from autotc.reducer import Budget, TokenView
from autotc.reducers.mmtok import MMTok
from tests.apply.test_input_site import policy_of
from tests.evaluate_fixtures import llava_folder, picture, qwen_folder

QUESTIONS = ["what is the colour of the left half ?", "right ?", "what is it ?"]


@pytest.mark.parametrize("folder", [llava_folder, qwen_folder])
def test_mmtok_sees_the_keywords_of_each_question(
    folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load_model(folder())
    inputs = processor.inputs([[picture(i)] for i in range(3)], QUESTIONS)
    policy = policy_of(model, Stage(site="projector", reducer="mmtok", keep=0.3))
    seen: list[TokenView] = []
    real = MMTok.assign

    def assign(self: MMTok, view: TokenView, budget: Budget) -> Any:
        seen.append(view)
        return real(self, view, budget)

    monkeypatch.setattr(MMTok, "assign", assign)
    prefix = capture(model, inputs, signals=("features",))
    with compress(model, policy, processor) as compression:
        whole = prefill(compression, inputs)
        again = resume(compression, prefix)
    assert torch.equal(whole.logits, again.logits)
    for view in seen:
        marks, real_text = view.signals["text_keywords"].bool(), view.text_valid
        assert real_text is not None and marks.shape == real_text.shape
        for row, wanted in enumerate(("colour of left half", "right")):
            ids = inputs["input_ids"][row][-int(real_text[row].sum()) :]
            assert processor.decode(ids[marks[row, : len(ids)]]).split() == wanted.split()
        assert marks[2].sum() >= 3  # no keyword: the whole question
    with compress(model, policy) as compression:  # no processor: all text counts
        prefill(compression, inputs)
    assert "text_keywords" not in seen[-1].signals
