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
    max_examples=-(-CASES // 3),
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


def changed(right: st.SearchStrategy[dict[str, Any]], wrong: dict[str, st.SearchStrategy[Any]]) -> Any:
    """What is right, with up to two fields changed or added, or one taken away."""
    fields = [st.tuples(st.just(k), v | anything) for k, v in wrong.items()]
    field = st.one_of(*fields, st.tuples(st.text(), anything))
    more = st.builds(lambda a, b: {**a, **dict(b)}, right, st.lists(field, max_size=2))
    less = st.builds(
        lambda a, k: {n: v for n, v in a.items() if n != k}, right, st.sampled_from([*wrong, ""])
    )
    return st.one_of(right, more, more, less)


def falling(made: list[tuple[dict[str, Any], float]]) -> list[dict[str, Any]]:
    """Stages in the order of their sites, with keeps that fall."""
    order = ("input", "vision", "projector", "decoder")
    stages = sorted((s for s, _ in made), key=lambda s: (order.index(s["site"]), s.get("layer", 0)))
    keeps = sorted((k for _, k in made), reverse=True)
    return [{**s, "keep": k} for s, k in zip(stages, keeps, strict=True)]


known = st.sampled_from(reducers.names())
before = st.fixed_dictionaries({"site": st.sampled_from(["input", "projector"]), "reducer": known})
inside = st.fixed_dictionaries({"site": st.just("decoder"), "reducer": known, "layer": st.integers(1, 27)})
right_stages = st.lists(st.tuples(before | inside, st.floats(0.01, 1)), max_size=3).map(falling)
right_policy = st.fixed_dictionaries(
    {
        "schema": st.just("autotc/policy/1"),
        "model": st.just({"family": "qwen2_5_vl", "id": "x", "decoder_layers": 28, "vision_blocks": 32}),
        "positions": st.sampled_from(["original", "compact"]),
        "stages": right_stages,
        "status": st.just("unverified"),
    }
)
keeps = st.floats(-0.2, 1.2) | st.sampled_from(
    [0, 1, math.nan, math.inf, -math.inf, 1e-300, -0.0, "0.5", True]
)
wrong_stage = changed(
    inside,
    {
        "site": st.sampled_from(["vision", "cache", "Decoder", "x"]),
        "reducer": st.sampled_from(["__import__", "os.system", "../fastv", "autotc.reducers.fastv", "fasv"]),
        "keep": keeps,
        "layer": st.integers(-2, 40),
        "params": st.dictionaries(st.sampled_from(["heads", "seed", "alpha", "__init__"]), anything),
        "min_tokens": st.integers(-2, 700),
        "max_tokens": st.integers(-2, 700),
        "trust_remote_code": st.booleans(),
    },
)
with_keep = st.builds(lambda s, k: {"keep": k, **s}, wrong_stage, keeps)
policy = changed(
    right_policy,
    {
        "schema": st.text(),
        "model": st.dictionaries(st.sampled_from(["family", "id", "decoder_layers"]), anything),
        "stages": st.lists(with_keep, min_size=1, max_size=3),
        "positions": st.text(),
        "status": st.sampled_from(["verified", "Verified"]),
        "expected": anything,
        "provenance": anything,
        "__class__": anything,
    },
)
words = st.text(min_size=1, max_size=10)
limits = st.floats(0.001, 1e6)
right_spec = st.fixed_dictionaries(
    {"model": words},
    optional={
        "max_tflops": limits,
        "flops_convention": st.sampled_from(["literature", "exact"]),
        "max_memory_gib": limits,
        "constraints": st.just(["worst_group_drop <= 0.1"]),
        "workload": st.sampled_from(["vqa", "chat", "images=2,resolution=336x336"]),
        "data": words,
        "examples": st.integers(16, 10_000),
        "trials": st.integers(1, 10_000),
        "timeout": limits,
        "sampler": st.sampled_from(["tpe", "nsga2", "gp", "random"]),
        "reducers": st.lists(known, min_size=1, max_size=3),
        "study": words,
        "seed": st.integers(0, 2**31 - 1),
        "workers": st.integers(1, 64),
    },
)
numbers = st.sampled_from([0, -1, 15, 65, 2**31, 10**400, math.nan, math.inf, -0.0, "9", True])
spec = changed(
    right_spec,
    {
        "model": st.just(""),
        "max_tflops": numbers,
        "max_memory_gib": numbers,
        "constraints": st.lists(st.text() | st.builds("{} <= {}".format, words, numbers), max_size=3),
        "workload": st.sampled_from(
            ["images=0", "resolution=9x9", "resolution=1e9x1", "batch=-1", "images=1,images=2"]
        ),
        "examples": numbers,
        "trials": numbers,
        "timeout": numbers,
        "sampler": words,
        "reducers": st.lists(words, max_size=3),
        "seed": numbers,
        "workers": numbers,
        "download": words,
    },
)
of_figures = st.sampled_from(
    ["quality", "worst_group_drop", "kv_gib", "tflops_exact", "memory_gib", "nothing"]
)
signs = st.sampled_from(["<=", ">=", "<", "="])
constraint = st.text() | st.builds("{} {} {}".format, of_figures, signs, numbers | limits)
sizes = st.integers(-1, 5000) | numbers
workload = st.text() | st.builds("images={},resolution={}x{},batch={}".format, sizes, sizes, sizes, sizes)


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


@given(constraint, workload)
@many
def test_constraints_and_workloads(constraint: str, workload: str) -> None:
    for found in accepted(lambda: parse_constraints([constraint]), SpecError) or ():
        assert math.isfinite(found.limit)
    mix = accepted(lambda: parse_workload(workload), SpecError)
    if mix is not None:
        assert all(r.width > 0 and r.height > 0 and r.images >= 0 for r in mix.requests)
