"""Every strategy: within the limit, the same again for the same seed, better with more evaluations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autotc.cost import estimate
from autotc.errors import SpecError
from autotc.policy import Policy
from autotc.search.space import Space
from autotc.search.strategies import NAMES, PUBLISHED, Proposed, Seen, Strategy, make, starts_from_presets
from autotc.testbed import simulate
from tests.fakes import FULL, PROXY, accept, true_quality
from tests.search.points import REDUCERS
from tests.testbed.beds import VQA, bed, space

QUICK = [name for name in NAMES if name != "gp"]


def policy_of(proposed: Proposed) -> Policy:
    return proposed.policy or space().decode(proposed.params).policy


def seen(proposed: Proposed, number: int) -> Seen:
    policy = policy_of(proposed)
    cost = estimate(policy, FULL, VQA).tflops_exact
    return Seen(number, proposed, true_quality(policy), cost, {"tflops_literature": -1.0})


def proposals(strategy: Strategy, n: int) -> list[Seen]:
    history: list[Seen] = []
    while len(history) < n and (proposed := strategy.propose(history, len(history))) is not None:
        history.append(seen(proposed, len(history)))
    return history


@pytest.mark.parametrize("name", QUICK)
def test_proposals_are_within_the_limit_and_can_be_run(name: str) -> None:
    for found in proposals(make(name, space(), 1), 30):
        policy = policy_of(found.proposed)
        assert estimate(policy, FULL, VQA).get("literature") <= space().high * (1 + 1e-9)
        assert policy.stages and space().fits(policy)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_proposes_the_same_also_from_a_stored_history(name: str) -> None:
    n = 19 if name == "gp" else 24  # the first 16 of the model-based ones are random
    first = proposals(make(name, space(), 2), n)
    again = proposals(make(name, space(), 2), n)
    assert [policy_of(s.proposed).id for s in first] == [policy_of(s.proposed).id for s in again]
    cut = len(first) - 1
    resumed = make(name, space(), 2).propose(first[:cut], cut)  # a new process knows the history only
    assert resumed is not None and policy_of(resumed).id == policy_of(first[cut].proposed).id


@pytest.mark.parametrize("name", [n for n in QUICK if n not in ("greedy", "fitprune", "vtw")])
def test_another_seed_proposes_something_else(name: str) -> None:
    ids = [{policy_of(s.proposed).id for s in proposals(make(name, space(), seed), 12)} for seed in (0, 1)]
    assert len(ids[0] & ids[1]) < 6


@pytest.mark.parametrize("name", [n for n in QUICK if n != "vtw"])  # there are two depths to withdraw at
def test_more_evaluations_find_more(name: str) -> None:
    """Mean area over seeds of what the strategy itself found, presets left out, on answers that it does not see."""
    scope = simulate.scope(bed())

    def found(evaluations: int) -> float:
        courses = [simulate.run(bed(), name, seed, evaluations) for seed in range(3)]
        assert all(c.over == 0 and c.found is not None for c in courses)
        return float(np.mean([simulate.area(c.found, *scope) for c in courses if c.found is not None]))

    few, many = found(512), found(6000)
    assert many > few


def test_learning_beats_chance_when_it_is_told_the_truth() -> None:
    """Sixty trials at known quality: the models' last twenty proposals are better than random ones at their cost."""

    def late(name: str) -> float:
        rows = [s for seed in range(3) for s in proposals(make(name, space(), seed), 60)[40:]]
        return float(np.mean([s.quality - 0.1 * np.log(s.cost) for s in rows]))

    chance = late("random")
    assert late("tpe") > chance + 0.02
    assert late("default") > chance + 0.02


def test_budgets_can_be_spread_evenly() -> None:
    budgets = np.array([s.proposed.params["budget"] for s in proposals(make("tpe-even", space(), 0), 32)])
    quarters = np.histogram(np.log(budgets / 200) / np.log(4), 4, (0, 1))[0]
    assert quarters.min() >= 7 and quarters.sum() == 32


def test_layerwise_schedules_never_rise_and_differ_by_their_rule() -> None:
    for name in ("evolution", "p-sigmoid", "greedy", "fitprune"):
        for found in proposals(make(name, space(), 0), 20):
            keeps = [s.keep for s in policy_of(found.proposed).stages]
            assert keeps == sorted(keeps, reverse=True) and {
                s.site for s in policy_of(found.proposed).stages
            } == {"decoder"}


def test_p_sigmoid_meets_its_budget() -> None:
    for found in proposals(make("p-sigmoid", space(), 0), 12):
        cost = estimate(policy_of(found.proposed), FULL, VQA).get("literature")
        assert (
            0.97 * found.proposed.params["sigmoid_budget"] <= cost <= found.proposed.params["sigmoid_budget"]
        )


def test_vflowopt_meets_its_budget_with_its_own_reducer() -> None:
    for found in proposals(make("vflowopt", space(), 0), 12):
        policy, params = policy_of(found.proposed), found.proposed.params
        assert {s.reducer for s in policy.stages} == {"vflowopt"} and policy.stages[0].site == "projector"
        cost = estimate(policy, FULL, VQA).get("literature")
        assert 0.97 * params["vflowopt_budget"] <= cost <= params["vflowopt_budget"] * (1 + 1e-9)


def test_greedy_finds_the_fewest_tokens_that_lose_nothing() -> None:
    """A score that falls below 40 % of the start's tokens at the first depth: bisection must end just above."""
    strategy, history = make("greedy", space(), 0), []
    start = policy_of(strategy.propose([], 0) or pytest.fail("nothing proposed")).stages[0].keep
    while len(history) < 6:
        proposed = strategy.propose(history, len(history))
        assert proposed is not None
        least = policy_of(proposed).stages[0].keep
        history.append(replace(seen(proposed, len(history)), quality=0.9 if least >= 0.4 * start else 0.5))
    tried = [policy_of(s.proposed).stages[0].keep / start for s in history]
    assert tried == pytest.approx([1, 1 / 2, 1 / 4, 3 / 8, 7 / 16, 13 / 32], abs=0.01)


def test_withdrawal_tries_each_depth_once_shallowest_first() -> None:
    layers = [policy_of(s.proposed).stages[0].layer for s in proposals(make("vtw", space(), 0), 50)]
    full = estimate(Policy(model=space().model), FULL, VQA).get("literature")
    # without tokens from layer k on, k of 28 layers are paid for
    assert layers == [k for k in space().depths["decoder"] if k / 28 * full <= space().high]


def test_evolution_keeps_to_the_hull() -> None:
    from autotc.search.strategies.evolution import _hull

    points = np.array([[0.5, 10], [0.55, 20], [0.8, 30], [0.7, 35], [0.85, 60]])
    assert _hull(points) == [0, 2, 4]  # the second lies below the line, the fourth is dominated


def test_a_space_without_what_a_strategy_needs_is_refused() -> None:
    narrow = Space(FULL, PROXY, VQA, 800, "literature", ("divprune",), accept)
    for name in ("evolution", "p-sigmoid", "greedy", "fitprune", "vtw", "vflowopt"):
        with pytest.raises(SpecError, match=f"--strategy {name}: .* or choose another strategy"):
            make(name, narrow, 0)
    with pytest.raises(SpecError, match=r"Did you mean 'nsga2'\?"):
        make("nsga", space(), 0)


def test_rivals_get_what_the_default_gets() -> None:
    assert {name for name in NAMES if not starts_from_presets(name)} == set(PUBLISHED)
    assert "fastv" in REDUCERS  # the layerwise schedules of these tests rest on it
