"""What is refused, or said, before anything runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from autotc.constraints import parse_constraints
from autotc.cost import estimate
from autotc.errors import SpecError
from autotc.search.reach import refuse_out_of_reach
from autotc.search.spec import SearchSpec
from autotc.search.study import Study
from autotc.store import Store
from tests.fakes import FULL
from tests.search.test_study import SETTING, SPEC, VQA, nothing


def refused(tmp_path: Path, *constraints: str, **options: object) -> str:
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    asked = SPEC.model_copy(update={"max_tflops": None, "constraints": constraints, **options})
    with pytest.raises(SpecError) as error:
        Study(asked, store, replace(SETTING, evaluator=nothing)).run()
    assert store.studies() == []
    return str(error.value)


@pytest.mark.parametrize("name", ["kv_gib", "tflops_exact", "memory_gib", "visual_tokens", "latency_ms"])
def test_a_limit_below_what_one_token_costs_is_refused_by_how_much(tmp_path: Path, name: str) -> None:
    said = refused(tmp_path, f"{name} <= 0.0001")
    assert f"'{name} <= 0.0001' can be met by no policy: with one visual token an image" in said
    least, short = map(float, re.findall(r"is still ([\d.e+-]+) .*?, ([\d.e+-]+) more", said)[0])
    assert least > 0 and short == pytest.approx(least - 0.0001, rel=1e-3)
    # what is just above is searched
    store = Store(f"sqlite:///{tmp_path}/other.db")
    Study(
        SPEC.model_copy(update={"max_tflops": None, "constraints": (f"{name} <= {1.01 * least}",)}),
        store,
        SETTING,
    )


def test_a_limit_above_what_every_token_costs_is_refused_by_how_much(tmp_path: Path) -> None:
    full = estimate(None, FULL, VQA).kv_bytes / 2**30
    said = refused(tmp_path, "kv_gib >= 3")
    assert (
        f"'kv_gib >= 3' can be met by no policy: that of the uncompressed model is {full:.4g} GiB a request, "
        in said
    )
    assert f"{3 - full:.4g} less" in said


def test_too_little_memory_for_the_weights_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, max_memory_gib=4.0)
    assert "'memory_gib <= 4' can be met by no policy" in said and "GiB, " in said


def test_limits_on_figures_are_no_business_of_the_space(tmp_path: Path) -> None:
    study = Study(SPEC, Store(f"sqlite:///{tmp_path}/autotc.db"), SETTING)
    refuse_out_of_reach(study.space, parse_constraints(["quality >= 0.9", "next_question >= 0.8"]))


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (
            ("kv_gib <= 1", "kv_gib >= 2"),
            "'kv_gib <= 1' and 'kv_gib >= 2' contradict one another: no value meets both, they are 1 apart",
        ),
        (("kv_bytes <= 1073741824", "kv_gib >= 1.5"), "they are 0.5 apart"),
        (("quality >= 0.9", "quality <= 0.7"), "they are 0.2 apart"),
    ],
)
def test_contradictions_say_by_how_much(constraints: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        SearchSpec.from_options({"model": "m", "constraints": constraints})
