"""The own default: what it expects is what a process over policies says, and it keeps to limits on costs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from autotc.constraints import Constraint
from autotc.cost import estimate
from autotc.metrics import METRICS, parse_objectives
from autotc.policy import Policy, Stage
from autotc.search.space import Space
from autotc.search.strategies import Proposed, Seen, default, make
from autotc.search.strategies._belief import MOST, Belief, Scales, features, fit
from autotc.search.strategies.default import DRAWN, growth
from autotc.search.strategies.points import from_unit
from tests.fakes import FULL, PROXY, accept, true_quality
from tests.search.points import REDUCERS
from tests.testbed.beds import VQA, space


def policies(n: int, seed: int = 0) -> list[Policy]:
    rng = np.random.default_rng(seed)
    there = space().distributions
    return [space().decode(from_unit(there, rng.random(len(there)))).policy for _ in range(n)]


def costs_of(found: list[Policy]) -> np.ndarray:
    return np.array([estimate(p, FULL, VQA).tflops_exact for p in found])


def test_growth_is_the_expected_gain_in_area() -> None:
    costs, quality, most = np.array([2.0, 4.0, 5.0]), np.array([0.3, 0.5, 0.6]), 8.0
    prices, mean, deviation = np.array([1.0, 3.0, 4.5, 8.0]), np.array([0.4, 0.5, 0.3, 0.9]), np.full(4, 0.1)
    found = growth(costs, quality, most, prices, mean, deviation)

    def gain(price: float, value: float) -> float:
        """By counting thin slices of cost."""
        x = np.linspace(0, most, 40_001)[:-1] + most / 80_000
        level = np.where(x < 2, quality[0], np.where(x < 4, 0.3, np.where(x < 5, 0.5, 0.6)))
        return float(np.mean(np.where(x >= price, np.maximum(value - level, 0), 0)) * most)

    for price, mu, sigma, got in zip(prices, mean, deviation, found, strict=True):
        grid = np.linspace(mu - 6 * sigma, mu + 6 * sigma, 401)
        weighted = [gain(price, v) * stats.norm.pdf(v, mu, sigma) for v in grid]
        assert got == pytest.approx(float(integrate.simpson(weighted, x=grid)), rel=2e-3, abs=1e-5)


def test_belief_is_the_posterior_of_a_gaussian_process() -> None:
    """Through the data where there is no noise, back to the prior far away, and by the textbook's formula between."""
    tried, other = policies(12), policies(3, seed=1)
    costs, quality = costs_of(tried), np.array([true_quality(p) for p in tried])
    rows = [features(p) for p in tried]
    exact = Belief(rows, costs, quality, 6000.0, Scales(noise=1e-10))
    mean, deviation = exact(rows, costs)
    np.testing.assert_allclose(mean, quality, atol=1e-4)
    assert deviation.max() < 2e-3
    noisy = Belief(rows, costs, quality, 6000.0, Scales())
    _, there = noisy(rows, costs)
    _, elsewhere = noisy([features(p) for p in other], costs_of(other))
    assert there.max() < elsewhere.min()


def test_features_tell_policies_apart_by_what_they_do() -> None:
    def one(**stage: object) -> Policy:
        return Policy(model=space().model, stages=(Stage.model_validate(stage),))

    base = one(site="projector", reducer="divprune", keep=0.25)
    assert features(base)["methods"]["projector", "divprune"] == pytest.approx(1.0)  # half of two halvings
    assert features(base)["alive"][0.0] == pytest.approx(-2 / np.sqrt(8))
    late = features(one(site="decoder", layer=14, reducer="fastv", keep=0.25))["alive"]
    assert late[0.25] == 0 and late[0.5] < 0
    assert features(one(site="projector", reducer="random", keep=0.25)) != features(base)


def test_fitted_scales_predict_better_than_the_mean() -> None:
    tried = policies(80)
    costs, quality = costs_of(tried), np.array([true_quality(p) for p in tried])
    rows = [features(p) for p in tried]
    scales = fit(rows[:60], costs[:60], quality[:60], float(costs.max()))
    expected, _ = Belief(rows[:60], costs[:60], quality[:60], float(costs.max()), scales)(
        rows[60:], costs[60:]
    )
    error = np.square(expected - quality[60:]).mean()
    assert error < 0.3 * np.square(quality[:60].mean() - quality[60:]).mean()


def history(there: Space, n: int, objectives: tuple[str, ...] = (), seed: int = 0) -> list[Seen]:
    metrics = parse_objectives(objectives)
    strategy, found = make("default", there, seed, metrics), []
    while len(found) < n:
        proposed = strategy.propose(found, len(found))
        assert proposed is not None
        found.append(told(there, proposed, len(found), objectives))
    return found


def told(there: Space, proposed: Proposed, number: int, objectives: tuple[str, ...] = ()) -> Seen:
    policy = there.decode(proposed.params).policy
    costs, quality = estimate(policy, FULL, VQA).as_dict(), true_quality(policy)
    metrics = parse_objectives(objectives)
    values = tuple(m.of(costs) if m.on_cost else quality if m.maximise else 1 - quality for m in metrics)
    broken = {limit.key: limit.violation(costs) for limit in there.limits}
    return Seen(number, proposed, quality, costs["tflops_exact"], broken, values if objectives else ())


def test_limits_on_costs_are_kept_once_it_chooses() -> None:
    limit = Constraint("kv_gib", 0.0063)
    there = Space(FULL, PROXY, VQA, 800, "literature", REDUCERS, accept, limits=(limit,))
    found = history(there, 40)
    chosen = [s for s in found if not s.proposed.attributes]
    assert len(chosen) >= 15 and all(s.feasible for s in chosen)
    free = history(space(), 40)
    kv = [
        METRICS["kv_gib"].of(estimate(space().decode(s.proposed.params).policy, FULL, VQA).as_dict())
        for s in free
    ]
    assert sum(k > limit.limit for k in kv) >= 10  # which it would not have done by itself


@pytest.mark.parametrize(
    "names", [("quality", "tflops_exact", "kv_gib"), ("quality", "kl", "tflops_exact", "memory_gib")]
)
def test_more_objectives_give_a_front_in_all_of_them(names: tuple[str, ...]) -> None:
    found = history(space(), DRAWN + 24, names)
    learnt = [s for s in found if not s.proposed.attributes]
    assert len({space().decode(s.proposed.params).policy.id for s in learnt}) == len(learnt)
    score = [s.quality - 0.1 * np.log(s.cost) for s in learnt[-12:]]
    chance = [
        true_quality(p) - 0.1 * np.log(c) for p, c in zip(policies(200), costs_of(policies(200)), strict=True)
    ]
    assert np.mean(score) > np.mean(chance)


def test_a_proposal_after_a_thousand_trials_rests_on_those_nearest_the_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that it does not take longer and longer; how long is measured by `autotc bench store`."""
    tried = policies(1000)
    sizes: list[int] = []

    def watched(rows: list[object], *rest: object) -> Belief:
        sizes.append(len(rows))
        return Belief(rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(default, "Belief", watched)
    found = [
        Seen(i, Proposed({"budget": 400.0}, p, {}, {default.DRAWN_MARK: True}), true_quality(p), c)
        for i, (p, c) in enumerate(zip(tried, costs_of(tried), strict=True))
    ]
    assert make("default", space(), 0).propose(found, len(found)) is not None
    assert sizes == [MOST]
