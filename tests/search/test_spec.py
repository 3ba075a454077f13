"""What a user may ask for, and what a wrong wish is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotc.errors import SpecError
from autotc.search.spec import RUN_ONLY, SearchSpec, differences, fingerprint
from autotc.workload import PROFILES

BASE: dict[str, Any] = {"model": "qwen2.5-vl", "max_tflops": 800.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_tflops": 0}, "--max-tflops: 0: input should be greater than 0"),
        ({"max_tflops": float("nan")}, "--max-tflops: nan: input should be a finite number"),
        ({"max_tflops": float("inf")}, "--max-tflops: inf"),
        ({"max_memory_gib": -1}, "--max-memory-gib: -1"),
        ({"trials": 0}, "--trials: 0: input should be greater than or equal to 1"),
        ({"trials": "many"}, "--trials: 'many': input should be a valid integer"),
        ({"examples": 3}, "--examples: 3"),
        ({"timeout": -5}, "--timeout: -5"),
        ({"workers": 0}, "--workers: 0"),
        ({"sampler": "tep"}, "--sampler: 'tep' is not known. Did you mean 'tpe'?"),
        (
            {"strategy": "best"},
            "--strategy: 'best' is not known. Known: default, evolution, fitprune, gp, greedy, nsga2, p-sigmoid, "
            "plain, random, sobol, tpe, tpe-even, vflowopt, vtw.",
        ),
        (
            {"flops_convention": "papers"},
            "--flops-convention: 'papers' is not known. Known: exact, literature.",
        ),
        ({"evaluate_on": "prox"}, "--evaluate-on: 'prox' is not known. Did you mean 'proxy'?"),
        ({"workload": "vqq"}, "--workload: unknown profile 'vqq'. Did you mean 'vqa'?"),
        ({"workload": "images=0"}, "--workload: images: '0' is not a whole number >= 1"),
        ({"max_tflop": 3}, "--max-tflop: unknown option. Did you mean 'max_tflops'"),
        ({"model": ""}, "--model: ''"),
        (
            {"reducers": ("divprune", "fasv")},
            "reducers[1]: unknown reducer 'fasv'. Did you mean 'fastv' or",
        ),
        ({"reducers": ()}, "--reducers: is empty; leave it out to search over all reducers"),
    ],
)
def test_wrong_options_say_what_is_allowed(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError) as error:
        SearchSpec.from_options({**BASE, **options})
    assert expected in str(error.value)


def test_options_that_are_not_given_are_left_to_their_defaults() -> None:
    assert SearchSpec.from_options({**BASE, "trials": None}) == SearchSpec(**BASE)


def test_a_file_is_named_in_messages(tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    file.write_text('model = "qwen2.5-vl"\nreducers = ["fastv", "x", "fasv"]\n')
    with pytest.raises(SpecError, match=r"search\.toml: reducers\[1\]: unknown reducer 'x'"):
        SearchSpec.from_toml(file)
    file.write_text('model = "qwen2.5-vl"\nsampler = "bogus"\n')
    with pytest.raises(SpecError, match=r"search\.toml: sampler: 'bogus' is not known"):
        SearchSpec.from_toml(file)
    file.write_text("model = \n")
    with pytest.raises(SpecError, match="not a TOML file"):
        SearchSpec.from_toml(file)
    with pytest.raises(SpecError, match="cannot be read"):
        SearchSpec.from_toml(tmp_path / "none.toml")
    file.write_text('model = "qwen2.5-vl"\ntrials = 9\n')
    assert SearchSpec.from_toml(file, trials=5, seed=None).trials == 5


CHANGED: dict[str, Any] = {
    "model": "llava-1.5-7b",
    "max_tflops": 400.0,
    "flops_convention": "exact",
    "max_memory_gib": 3.0,
    "objectives": ("quality", "kv_gib"),
    "constraints": ("quality >= 0.9",),
    "workload": "chat",
    "data": "my.jsonl",
    "skip_bad": True,
    "examples": 64,
    "selection_examples": 300,
    "heldout_examples": 600,
    "trials": 7,
    "until": "plateau",
    "timeout": 9.0,
    "sampler": "gp",
    "strategy": "plain",
    "all_presets": True,
    "reducers": ("fastv",),
    "deploy": "vllm",
    "study": "mine",
    "storage": "sqlite:///other.db",
    "seed": 5,
    "evaluate_on": "full",
    "workers": 2,
    "executor": "ray",
    "device": "cuda:1",
    "measure": True,
    "download": True,
}


def document(**changes: Any) -> dict[str, Any]:
    spec = SearchSpec(**{**BASE, **changes})
    return spec.document(spec.parsed_workload(), "data")


def test_every_option_is_covered_here() -> None:
    assert set(CHANGED) == set(SearchSpec.model_fields)
    assert set(SearchSpec.model_fields) >= RUN_ONLY


@pytest.mark.parametrize("name", sorted(CHANGED))
def test_the_fingerprint_covers_what_decides_the_meaning_of_a_trial(name: str) -> None:
    same = fingerprint(document()) == fingerprint(document(**{name: CHANGED[name]}))
    assert same == (name in RUN_ONLY)
    lines = differences(document(), document(**{name: CHANGED[name]}))
    assert bool(lines) == (name not in RUN_ONLY)
    assert all(line.startswith(name) for line in lines)


def test_the_fingerprint_covers_data_and_workload() -> None:
    spec = SearchSpec(**BASE)
    one = spec.document(PROFILES["vqa"], "a")
    assert differences(one, spec.document(PROFILES["vqa"], "b")) == ["the data was 'a', now 'b'"]
    assert fingerprint(one) != fingerprint(spec.document(PROFILES["chat"], "a"))


def test_a_password_in_the_storage_is_not_kept() -> None:
    spec = SearchSpec(**BASE, storage="postgresql://me:secret@host/db")
    assert "secret" not in str(spec.document(PROFILES["vqa"]))


def test_study_names() -> None:
    spec = SearchSpec(**BASE)
    assert spec.study_name("0123456789abcdef") == "qwen2.5-vl-01234567"
    assert SearchSpec(model="some/dir/My Model").study_name("0123456789abcdef") == "my-model-01234567"
    assert SearchSpec(**BASE, study="mine").study_name("0123456789abcdef") == "mine"
