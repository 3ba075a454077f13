"""Policies and specs made of anything: accepted when they are right, refused in words, never a traceback.

`make fuzz` runs 100,000 cases; AUTOTC_FUZZ sets another number.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotc.apply import check
from autotc.constraints import parse_constraints
from autotc.errors import AutotcError, PolicyError, SpecError
from autotc.policy import load_policy
from autotc.reducer import reducers
from autotc.search.spec import SearchSpec
from autotc.workload import parse_workload
from tests.fakes import FULL

CASES = int(os.environ.get("AUTOTC_FUZZ", "300"))
many = settings(
    max_examples=CASES // 3,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=CASES < 1000,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def mostly(likely: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly values of the right kind, so that cases come past the first check."""
    return st.one_of(likely, likely, likely, likely, likely, likely, anything)


def some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Dictionaries with some of the fields, sometimes with others."""
    made = st.fixed_dictionaries({}, optional={k: mostly(v) for k, v in fields.items()})
    return st.one_of(
        made, made, made, st.builds(lambda a, b: {**a, **b}, made, st.dictionaries(st.text(), anything))
    )


keeps = st.one_of(st.floats(-0.2, 1.2), st.sampled_from([0, 1, 0.5, math.nan, math.inf, 1e-300, -0.0]))
stage = st.fixed_dictionaries(
    {
        "site": mostly(st.sampled_from(["input", "vision", "projector", "decoder", "cache", "x"])),
        "reducer": mostly(st.sampled_from([*reducers.names(), "__import__", "os.system", "../fastv"])),
        "keep": mostly(keeps),
    },
    optional={
        "layer": mostly(st.integers(-2, 40)),
        "params": some({"heads": st.text(), "seed": st.integers(), "alpha": st.floats()}),
        "min_tokens": mostly(st.integers(-2, 700)),
        "max_tokens": mostly(st.integers(-2, 700)),
        "trust_remote_code": st.booleans(),
    },
)
stages = st.one_of(
    st.lists(stage, max_size=4),
    st.builds(
        lambda k, n: [{"site": "decoder", "layer": n, "reducer": "fastv", "keep": k}],
        keeps,
        st.integers(-1, 29),
    ),
)
model = st.fixed_dictionaries(
    {
        "family": mostly(st.just("qwen2_5_vl")),
        "decoder_layers": mostly(st.just(28)),
        "vision_blocks": mostly(st.just(32)),
    },
    optional={"id": mostly(st.text())},
)
policy = st.fixed_dictionaries(
    {"schema": mostly(st.just("autotc/policy/1")), "model": mostly(model), "stages": mostly(stages)},
    optional={
        "positions": mostly(st.sampled_from(["original", "compact"])),
        "status": mostly(st.sampled_from(["unverified", "verified"])),
        "expected": anything,
        "provenance": anything,
        "__class__": anything,
    },
)
spec = some(
    {
        "model": st.text(),
        "max_tflops": st.floats(),
        "flops_convention": st.sampled_from(["literature", "exact"]),
        "max_memory_gib": st.floats(),
        "constraints": st.lists(
            st.text() | st.builds("{} {} {}".format, st.text(), st.sampled_from(["<=", ">="]), st.floats()),
            max_size=3,
        ),
        "workload": st.text()
        | st.sampled_from(["vqa", "images=1,resolution=9x9", "images=0", "resolution=1e9x1", "batch=-1"]),
        "data": st.text(),
        "examples": st.integers(),
        "trials": st.integers(),
        "timeout": st.floats(),
        "sampler": st.sampled_from(["tpe", "gp", "os"]),
        "strategy": st.text(),
        "reducers": st.lists(st.sampled_from(reducers.names()) | st.text(), max_size=3),
        "study": st.text(),
        "seed": st.integers(),
        "workers": st.integers(),
        "download": st.booleans(),
    }
)


def accepted(make: Callable[[], Any], refusal: type[AutotcError] = AutotcError) -> Any:
    """Return what was made, or None when it was refused in words."""
    try:
        return make()
    except refusal as error:
        assert str(error).strip() and "Traceback" not in str(error)
        return None


@given(policy | anything)
@many
def test_policies(document: Any) -> None:
    found = accepted(lambda: load_policy(document), PolicyError) if isinstance(document, dict) else None
    if found is None:
        return
    keeps = [s.keep for s in found.stages]
    assert all(0 <= k <= 1 and math.isfinite(k) for k in keeps)
    assert keeps == sorted(keeps, reverse=True)
    assert all(s.keep > 0 or s.site == "decoder" for s in found.stages)
    assert load_policy(json.loads(found.json_text())).id == found.id
    fits = accepted(lambda: check(found, FULL) or True)
    if fits:
        assert all(s.reducer in reducers.names() for s in found.stages)
        assert all(s.layer is None or 0 <= s.layer < 32 for s in found.stages)


@given(spec)
@many
def test_specs(options: dict[str, Any]) -> None:
    found = accepted(lambda: SearchSpec.from_options(options), SpecError)
    if found is not None:
        assert found.model and found.trials >= 1 and 1 <= found.workers <= 64 and found.examples >= 16
        for limit in (found.max_tflops, found.max_memory_gib, found.timeout):
            assert limit is None or (limit > 0 and math.isfinite(limit))
        assert SearchSpec.from_options(found.model_dump(mode="json")) == found


@given(
    st.text() | st.from_regex(r"[a-z_]{1,12} ?[<>]=? ?-?[0-9.e]{1,6}"),
    st.text() | st.from_regex(r"[a-z]{1,10}=[0-9x]{1,9}(,[a-z]{1,6}=[0-9]{1,9})?"),
)
@many
def test_constraints_and_workloads(constraint: str, workload: str) -> None:
    for found in accepted(lambda: parse_constraints([constraint]), SpecError) or ():
        assert math.isfinite(found.limit)
    mix = accepted(lambda: parse_workload(workload), SpecError)
    if mix is not None:
        assert all(r.width > 0 and r.height > 0 and r.images >= 0 for r in mix.requests)
