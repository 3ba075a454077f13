"""Every point of the space is a policy within its budget, and as much of it as whole tokens allow."""

from __future__ import annotations

import itertools
import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotc.apply import check
from autotc.cost import estimate, floor_cost, full_cost
from autotc.errors import SpecError, UnsupportedError
from autotc.policy import LAYERED, Policy, Stage
from autotc.reducer import make_reducer
from autotc.reducer import reducers as registry
from autotc.search._dimensions import proposal_depths, variant, variant_place, variants
from autotc.search._inverse import encode
from autotc.search._references import references
from autotc.search.space import Space
from autotc.workload import PROFILES, Request, Workload
from tests.fakes import FULL, PROXY, accept
from tests.search.points import REDUCERS, point

VQA = PROFILES["vqa"]
MIXED = Workload((Request(width=448, height=336), Request(width=280, height=700, weight=2.0)), name="mixed")
CASES = {
    "papers": (VQA, 800.0, "literature", REDUCERS),
    "exact": (VQA, 4000.0, "exact", REDUCERS),
    "tight": (VQA, 1300.0, "exact", REDUCERS),
    "mixed": (MIXED, 100.0, "literature", REDUCERS),
    "decoder only": (VQA, 1000.0, "literature", ("fastv", "withdraw")),
    "input only": (VQA, 2000.0, "exact", ("downsample",)),
    "vision only": (VQA, 1000.0, "literature", ("tome",)),
    "no limit": (VQA, None, "literature", REDUCERS),
}


@cache
def space(name: str) -> Space:
    workload, limit, convention, reducers = CASES[name]
    return Space(FULL, PROXY, workload, limit, convention, reducers, check=accept)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6))
def test_a_proposal_costs_its_budget_to_within_a_token(name: str, seed: int) -> None:
    here = space(name)
    params = point(here, random.Random(seed))
    proposal = here.decode(params)
    policy, budget = proposal.policy, proposal.budget
    cost = estimate(policy, FULL, here.workload).get(here.convention)
    assert cost <= budget <= here.high
    assert here.decode(params) == proposal
    # depths travel to the proxy and back
    there = policy.for_model(PROXY)
    assert there.for_model(FULL).stages == policy.stages
    # every stage reduces
    keeps = [1.0, *(s.keep for s in policy.stages)]
    assert all(b < a for a, b in itertools.pairwise(keeps))
    # one token more at the last stage that can be adjusted would cost more than the budget
    adjustable = [i for i, s in enumerate(policy.stages) if s.keep > 0]
    if adjustable:
        last = adjustable[-1]
        n = max(FULL.visual_tokens(r.width, r.height) for r in here.workload.requests)
        more = policy.stages[last].keep + 1 / n
        before = policy.stages[last - 1].keep if last else 1.0
        if more <= before:
            stages = list(policy.stages)
            stages[last] = stages[last].model_copy(update={"keep": more})
            dearer = policy.model_copy(update={"stages": tuple(stages)})
            assert estimate(dearer, FULL, here.workload).get(here.convention) > budget


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 10**6))
def test_proposals_fit_the_family(seed: int) -> None:
    here = family_space()
    policy = here.decode(point(here, random.Random(seed))).policy
    check(policy, FULL)
    check(policy.for_model(PROXY), PROXY)


@cache
def family_space() -> Space:
    return Space(FULL, PROXY, VQA, 800.0)


def test_every_reducer_of_the_family_is_used_and_controls_are_not() -> None:
    here = family_space()
    used = {name for names in here.choices.values() for name in names} | set(here.withdrawing)
    assert {"divprune", "fastv", "downsample", "withdraw", "tome"} <= used
    assert "random" not in used
    named = Space(FULL, PROXY, VQA, 800.0, reducers=("random",))
    assert "random" in named.choices["projector"]


def test_a_reducer_that_a_family_refuses_is_left_out() -> None:
    def refuse(policy: Policy, anatomy: object) -> None:
        if any(s.reducer == "fastv" or s.site == "vision" for s in policy.stages):
            raise UnsupportedError("not here")

    here = Space(FULL, PROXY, VQA, 800.0, reducers=REDUCERS, check=refuse)
    assert "fastv" not in here.choices["decoder"] and here.choices["decoder"]
    assert here.choices["vision"] == ()
    with pytest.raises(SpecError, match="none of fastv can be used alone on the family 'qwen2_5_vl'"):
        Space(FULL, PROXY, VQA, 800.0, reducers=("fastv",), check=refuse)


def test_a_limit_below_the_floor_says_what_sets_it() -> None:
    with pytest.raises(SpecError) as error:
        Space(FULL, PROXY, VQA, 3.0, reducers=REDUCERS, check=accept)
    text = str(error.value)
    assert text.startswith(
        "--max-tflops: 3 TFLOP per 1,000 requests (literature) is below the floor of the space, 6.526"
    )
    assert "one visual token an image in the first decoder layer" in text
    assert text.endswith("Allow at least 6.526")
    assert Space(FULL, PROXY, VQA, 6.526, reducers=REDUCERS, check=accept).low <= 6.526
    with pytest.raises(
        SpecError, match="below the floor of the space, 1069: one visual token an image, text and decode"
    ):
        Space(FULL, PROXY, VQA, 500.0, "exact", reducers=REDUCERS, check=accept)
    assert space("exact").floor >= floor_cost(FULL, VQA, "exact").tflops


def test_a_limit_above_the_uncompressed_cost_is_said_and_goes_on() -> None:
    here = Space(FULL, PROXY, VQA, 1e6, reducers=REDUCERS, check=accept)
    assert here.high == full_cost(FULL, VQA).tflops_literature
    assert here.notes == [
        "--max-tflops: 1e+06 TFLOP per 1,000 requests (literature) is above the uncompressed model's 3825; "
        "the search goes on below that"
    ]
    assert space("papers").notes == []


def test_only_depths_that_round_trip_are_proposed() -> None:
    assert proposal_depths(28, 14) == tuple(range(2, 28, 2))
    assert proposal_depths(28, 28) == tuple(range(1, 28))
    assert proposal_depths(28, 12) == (3, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26)


@pytest.mark.parametrize("name", ["papers", "exact", "no limit"])
def test_policies_come_back_from_their_points(name: str) -> None:
    here, rng, back, tried = space(name), random.Random(3), 0, 0
    while tried < 40:
        policy = here.decode(point(here, rng)).policy
        if estimate(policy, FULL, here.workload).get(here.convention) < here.low:
            continue  # coarse grids may fall below the least budget
        tried += 1
        params = encode(here, policy)
        if params is None:
            continue
        assert set(params) == set(here.distributions)
        again = here.decode(params).policy
        if len(again.stages) != len(policy.stages):
            continue
        back += 1
        for a, b in zip(again.stages, policy.stages, strict=True):
            assert (a.site, a.layer, a.reducer, a.params) == (b.site, b.layer, b.reducer, b.params)
            assert abs(a.keep - b.keep) <= 2 / 576 + 0.02 * b.keep
    assert back >= 36


def test_presets_are_points_of_the_space() -> None:
    here = Space(FULL, PROXY, VQA, 800.0, check=accept)
    known = dict(references(here))
    for label in ("divprune", "fastv", "downsample", "fastervlm"):
        params = encode(here, known[label])
        assert params is not None, label
        again = here.decode(params).policy
        assert [s.reducer for s in again.stages] == [s.reducer for s in known[label].stages]
        for a, b in zip(again.stages, known[label].stages, strict=True):
            assert (a.site, a.layer) == (b.site, b.layer)
            assert abs(a.keep - b.keep) <= 1.5 / 576
    assert encode(here, known["uncompressed"]) is None
    assert encode(here, known["random"]) is None


def test_references_meet_the_limit_and_come_one_recipe_a_method() -> None:
    here = Space(FULL, PROXY, VQA, 800.0, check=accept)
    known = references(here)
    labels = [label for label, _ in known]
    assert labels[:3] == ["uncompressed", "random", "downsample"]
    assert len(labels) == 3 + 12
    assert len({p.stages[0].reducer for _, p in known[3:]}) == 12
    for label, policy in known[1:]:
        cost = estimate(policy, FULL, VQA).tflops_literature
        assert 740 < cost <= 800, label
        assert policy.for_model(PROXY).for_model(FULL).stages == policy.stages
    everything = references(here, all_presets=True)
    assert len(everything) > len(known)
    assert {label for label, _ in known} <= {label for label, _ in everything}


@pytest.mark.parametrize("name", registry.names())
def test_variants_are_valid_settings(name: str) -> None:
    cls = registry.get(name)
    options = variants(cls, FULL)
    assert options[0] == {} and len({str(o) for o in options}) == len(options)
    for option in options:
        assert make_reducer(name, option) is not None
        place = variant_place(cls, option, FULL)
        assert place is not None and variant(cls, place, FULL) == option
    assert len(options) == 1 or variant(cls, 1.0, FULL) == options[-1]
    assert cls.crossed or variant(cls, 0.49, FULL) == {}


def test_layered_sites_only_have_layers() -> None:
    here, rng = space("papers"), random.Random(0)
    for _ in range(20):
        for stage in here.decode(point(here, rng)).policy.stages:
            assert (stage.layer is not None) == (stage.site in LAYERED)


def test_parameters_that_the_space_does_not_vary_so_are_no_point_of_it() -> None:
    """A variant changes one parameter of a reducer; a recipe may set several, or other values."""
    here = Space(FULL, PROXY, VQA, 800.0, check=accept)
    recipe = dict(references(here))["fastervlm"]
    assert encode(here, recipe) is not None
    late = Stage(site="decoder", layer=14, reducer="fastv", keep=0.1)
    for params, varied in ({"contextual": 0.5}, True), ({"contextual": 0.123}, False):
        first = Stage(site="projector", reducer="visionzip", keep=0.3, params=params)
        several = recipe.model_copy(update={"stages": (first, late)})
        assert (encode(here, several) is not None) == varied
