"""The built-in data set: disjoint splits, two questions an image, even groups."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np

from autotc.task import SPLITS
from autotc.tasks.scenes import GROUPS, Scenes, draw_scene


def test_splits_share_no_image_and_every_beginning_is_the_same() -> None:
    task = Scenes(size=112)
    found = {split: task.examples(split, 40) for split in SPLITS}
    keys = [{e.image for e in found[split]} for split in SPLITS]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    assert [e.id for e in Scenes(size=112).examples("search", 11)] == [e.id for e in found["search"][:11]]
    assert len({e.id for split in SPLITS for e in found[split]}) == 120


def test_two_questions_of_different_groups_an_image_and_each_is_the_other_s_sibling() -> None:
    task = Scenes(size=112)
    for one in task.examples("selection", 24):
        other = task.sibling("selection", one)
        if other is not None:
            assert other.image == one.image and other.question != one.question
            assert task.sibling("selection", other) == one
    pairs = Counter(e.image for e in task.examples("selection", 24))
    assert max(pairs.values()) == 2 and len(pairs) <= 13


def test_groups_are_even() -> None:
    counts = Counter(e.group for e in Scenes().examples("search", 200))
    assert set(counts) == set(GROUPS)
    assert min(counts.values()) >= 16 and max(counts.values()) <= 26


def test_pictures_are_the_scenes_and_the_task_travels_between_processes() -> None:
    task = pickle.loads(pickle.dumps(Scenes(size=112)))
    example = task.examples("held-out", 3)[2]
    seed = int(example.image.removeprefix("scene-"))
    scene = draw_scene(seed, digits="test", size=112, objects=task.objects)
    np.testing.assert_array_equal(np.asarray(example.load()[0]), scene.image)
    assert (example.question, example.answer) in {(q.text, q.answer) for q in scene.questions}
    assert task.fingerprint == Scenes(size=112).fingerprint != Scenes(size=126).fingerprint


def test_without_a_number_a_split_has_two_questions_of_each_of_its_images() -> None:
    assert 7 <= len(Scenes(size=112, images=4).examples("search")) <= 8
