"""Pictures of what is kept: they show what the model's cuts really left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotc import pictures
from autotc.assignment import merge, select
from autotc.errors import DataError, SpecError
from autotc.evaluate import Evaluator
from autotc.picturing import look, make, of_study, targets
from autotc.policy import ModelRef, Policy, Stage
from autotc.proxies import proxy_folder
from autotc.store import Store
from autotc.store.sample import fill
from autotc.tables.fronts import FrontView
from autotc.tasks.scenes import Scenes


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    folder = proxy_folder("qwen2_5_vl")
    assert folder is not None
    return Evaluator(folder, Scenes(), threads=1)


def policy(evaluator: Evaluator, *stages: Stage) -> Policy:
    anatomy = evaluator.anatomy
    return Policy(
        model=ModelRef(
            family=anatomy.family,
            decoder_layers=anatomy.decoder.layers,
            vision_blocks=anatomy.vision.blocks,
        ),
        stages=stages,
    )


def test_a_token_stays_goes_into_another_or_is_dropped() -> None:
    assert targets(select(torch.tensor([[True, False, True, False]])), 4) == [0, None, 2, None]
    assert targets(merge(torch.tensor([[0, 0, 2, -1]])), 4) == [0, 0, 2, None]


def test_what_is_drawn_is_what_every_stage_left(evaluator: Evaluator) -> None:
    stages = (
        Stage(site="vision", layer=1, reducer="tome", keep=0.75),
        Stage(site="projector", reducer="divprune", keep=0.5),
        Stage(site="decoder", layer=4, reducer="fastv", keep=0.25),
        Stage(site="decoder", layer=9, reducer="withdraw", keep=0.0),
    )
    example = evaluator.task.examples("held-out", 1)[0]
    _, grid, tokens, seen = look(evaluator, policy(evaluator, *stages), example)
    assert grid[0] * grid[1] == tokens == 144
    before = set(range(tokens))
    for stage, (_, found) in zip(stages, seen, strict=True):
        kept = {i for i, t in enumerate(found) if t == i}
        assert len(kept) == stage.tokens(tokens)
        assert kept <= before
        assert {t for t in found if t is not None} <= kept
        before = kept
    merged = [t for i, t in enumerate(seen[0][1]) if t not in (i, None)]
    assert len(merged) == tokens - stages[0].tokens(tokens), "ToMe merges, it drops nothing"


def test_a_smaller_image_is_shown_smaller(evaluator: Evaluator) -> None:
    small = policy(evaluator, Stage(site="input", reducer="downsample", keep=0.25))
    example = evaluator.task.examples("held-out", 1)[0]
    image, grid, tokens, seen = look(evaluator, small, example)
    assert (grid, tokens) == ((6, 6), 144)
    assert seen[0][1] == list(range(36))
    assert seen[0][0].size == image.size
    assert np.asarray(seen[0][0]).astype(int).std() < np.asarray(image).astype(int).std()


def test_drawn_tokens_keep_their_colours_and_dropped_ones_lose_them() -> None:
    image = Image.new("RGB", (40, 20), (200, 30, 30))
    out = np.asarray(pictures.drawn(image, (1, 2), [0, None]))
    assert out[10, 10].tolist() == [200, 30, 30]
    red, green, _ = out[10, 30].astype(int)
    assert red - green < 40


def test_pictures_are_written_beside_the_database_and_read_back(evaluator: Evaluator, tmp_path: Path) -> None:
    root = pictures.folder(f"sqlite:///{tmp_path}/autotc.db")
    assert root == tmp_path / "autotc.pictures"
    half = policy(evaluator, Stage(site="projector", reducer="random", keep=0.5))
    (folder,) = make(root, evaluator, [half], n=2)
    found = pictures.read(root, half.id)
    assert found is not None
    assert [len(e.stages) for e in found.examples] == [1, 1]
    assert found.examples[0].stages[0].kept == 72
    full = evaluator.evaluate(None, "held-out", 2)
    assert [e.before for e in found.examples] == full.answer.tolist()
    files = {e.file for e in found.examples} | {s.file for e in found.examples for s in e.stages}
    assert {path.name for path in folder.iterdir()} == {*files, "index.json"}
    with Image.open(folder / "0-0.webp") as kept, Image.open(folder / "0.webp") as shown:
        assert kept.size == shown.size
    assert pictures.read(root, "0" * 64) is None


def test_a_studys_front_is_drawn_best_first_within_a_time_and_not_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/autotc.db"
    (name,) = fill(url, (30,))
    view = FrontView.read(Store(url), name, None, None)
    best = max(view.front, key=lambda m: m.value("quality", view.split))
    one = of_study(url, name, n=2, within_s=0.0)
    assert (one.made, one.there) == (0, 0) and one.left > len(view.front)
    ticks = iter([0.0, 1.0, 9.0])
    monkeypatch.setattr("autotc.picturing.time.monotonic", lambda: next(ticks))
    some = of_study(url, name, n=2, within_s=5.0)
    assert (some.made, some.there, some.left) == (1, 0, one.left - 1)
    assert pictures.read(some.folder, best.policy.id) is not None
    monkeypatch.undo()
    named = of_study(url, name, n=2, trial=int(best.trial))
    assert (named.made, named.left) == (1, 0)
    assert of_study(url, name, n=2, within_s=0.0).there == 1
    with pytest.raises(SpecError, match=f"{name}: no finished trial 999"):
        of_study(url, name, trial=999)


def test_the_command_that_draws_names_what_real_weights_need() -> None:
    assert pictures.command("s 1", "proxy:tiny") == "autotc eval --study 's 1' --pictures 12"
    assert (
        pictures.command("s", "Qwen/Q", 3) == "autotc eval --study s --pictures 12 --trial 3 --model FOLDER"
    )


def test_a_description_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    place = pictures.place(tmp_path, "a" * 64)
    place.mkdir()
    bad = {"schema": "autotc/pictures/1", "policy": "a" * 64, "on": "x", "split": "held-out", "stages": []}
    example = {
        "id": "1",
        "group": "g",
        "question": "q",
        "wanted": None,
        "before": "",
        "after": "",
        "tokens": 1,
    }
    example |= {"right_before": 0.0, "right_after": 0.0, "stages": [], "file": "../../secret.webp"}
    (place / "index.json").write_text(json.dumps({**bad, "examples": [example]}))
    with pytest.raises(DataError, match="eval --pictures"):
        pictures.read(tmp_path, "a" * 64)
    for name in ("../../etc", "a/b" * 8, "short"):
        with pytest.raises(DataError, match="not the id"):
            pictures.place(tmp_path, name)
