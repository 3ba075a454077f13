"""What a user reads about the data, or is refused for it, before a search runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotc.errors import SpecError
from autotc.search._claims import LEAST_IMAGES
from autotc.search.before import unmeasured, without_answers
from autotc.search.spec import SearchSpec
from autotc.tasks.jsonl import Jsonl
from tests.tasks.test_jsonl import many, write

SIZES = {"search": 64, "selection": 64, "held-out": 64}


def asked(**options: Any) -> SearchSpec:
    return SearchSpec.from_options({"model": "m", "data": "my.jsonl", **options})


def data(folder: Path, images: int, questions: int, groups: int = 1) -> Jsonl:
    lines = many(folder, images, questions)
    for i, line in enumerate(lines):
        line["group"] = f"g{i % groups}"
    return Jsonl(write(folder, lines))


def test_without_answers_quality_says_what_it_is() -> None:
    (said,) = without_answers(asked())
    assert said.startswith("The data has no answers: quality is agreement with the uncompressed model")
    assert "No claim will be made" in said and "held against" not in said
    (said,) = without_answers(asked(constraints=("quality >= 0.9", "kv_gib <= 1")))
    assert "That is what quality >= 0.9 is held against." in said
    with pytest.raises(
        SpecError, match="--objective: quality and agreement are the same on data without answers"
    ):
        without_answers(asked(objectives=("quality", "agreement", "kv_gib")))


def test_too_few_images_for_a_claim_are_said(tmp_path: Path) -> None:
    task = data(tmp_path, 40, 2)
    held = task.examples("held-out", 64)
    images = len({e.image for e in held})
    assert images < LEAST_IMAGES
    assert unmeasured(asked(), task, SIZES) == [
        f"No claim will be made: the {len(held)} held-out examples are about {images} images, and 20 are needed. Give "
        "more data, or more of it with --heldout-examples."
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objectives": ("quality", "next_question", "kv_gib")},
            "--objective: next_question cannot be measured: no image",
        ),
        (
            {"constraints": ("next_question >= 0.8",)},
            "--constraint: 'next_question >= 0.8' cannot be measured: no image",
        ),
        (
            {"objectives": ("worst_group", "kv_gib")},
            "--objective: worst_group cannot be measured: fewer than two question",
        ),
    ],
)
def test_a_figure_that_the_data_cannot_give_is_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(SpecError) as error:
        unmeasured(asked(**options), data(tmp_path, 60, 1), SIZES)
    assert str(error.value).startswith(message) and "in the search examples of my.jsonl" in str(error.value)


def test_a_figure_that_the_data_gives_is_not_refused(tmp_path: Path) -> None:
    options = {
        "objectives": ("worst_group", "next_question", "kv_gib"),
        "constraints": ("next_question >= 0.8",),
    }
    unmeasured(asked(**options), data(tmp_path, 80, 2, groups=2), SIZES)
