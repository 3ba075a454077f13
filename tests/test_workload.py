"""Workloads: profiles, the written form, and what is refused."""

from __future__ import annotations

import pytest

from autotc.errors import SpecError
from autotc.workload import PROFILES, Request, Workload, parse_workload


def test_the_default_is_the_papers_image():
    assert parse_workload("vqa").requests == (Request(images=1, width=672, height=672),)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_round_trip_through_json(name):
    assert Workload.from_dict(parse_workload(name).as_dict()) == PROFILES[name]


def test_written_form():
    load = parse_workload("images=2,resolution=640x480,prompt=10,new=5,batch=8")
    assert load.batch == 8
    assert load.requests == (Request(images=2, width=640, height=480, prompt_tokens=10, new_tokens=5),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vqq", "Did you mean 'vqa'"),
        ("imges=1", "Did you mean 'images'"),
        ("images=0", "whole number >= 1"),
        ("resolution=640", "whole number"),
        ("frames=8", "videos are not supported yet"),
    ],
)
def test_refused(text, words):
    with pytest.raises(SpecError, match="--workload") as error:
        parse_workload(text)
    assert words in str(error.value)


def test_weights_are_normalised():
    load = Workload((Request(weight=1), Request(weight=3)))
    assert load.weights == (0.25, 0.75)
