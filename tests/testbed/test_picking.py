"""Rules to pick by: what each picks is checked on answers made by hand and on policies that are equally good."""

from __future__ import annotations

import numpy as np
import pytest

from autotc.statistics import clustered_error
from autotc.testbed.picking import MOST, RULES, Evidence, compare, pick
from autotc.testbed.picking_page import section
from autotc.testbed.simulate import Course, Tried
from tests.testbed.beds import bed


def evidence(quality: list[float], cost: list[float], n: int = 200, seed: int = 0) -> Evidence:
    """Answers with the given chances, two questions an image."""
    rng = np.random.default_rng(seed)
    chance = np.array(quality)[:, None]
    image = np.arange(n) // 2
    search, selection = (1.0 * (rng.random((len(quality), n)) < chance) for _ in range(2))
    return Evidence(np.array(cost, float), search, selection, image, 1000 + image)


@pytest.mark.parametrize("name", [*RULES, "one-se"])
def test_nothing_over_the_limit_is_picked(name: str) -> None:
    seen = evidence([0.3, 0.5, 0.7, 0.9], [1, 2, 3, 4])
    assert [seen.cost[pick(name, seen, limit)[0]] <= limit for limit in (1, 2.5, 3, 9)] == [True] * 4
    assert pick(name, seen, 9)[0] == 3  # far better than the others


def test_scores_are_the_means_of_the_named_examples() -> None:
    seen = evidence([0.3, 0.6, 0.8], [1, 2, 3])
    assert pick("search", seen, 2)[1] == seen.search[1].mean()
    assert pick("selection", seen, 2)[1] == seen.selection[1].mean()
    assert pick("pooled", seen, 2)[1] == np.concatenate([seen.search[1], seen.selection[1]]).mean()


def test_only_fronts_of_the_search_are_looked_at_again() -> None:
    many = evidence([0.5 + 0.01 * i for i in range(40)], [40 - i for i in range(40)], seed=3)
    looked = np.isfinite(RULES["selection"](many))
    assert looked.sum() <= MOST
    best = int(np.argmax(many.search.mean(1)))
    assert looked[best]


def test_one_standard_error_takes_the_cheapest_that_is_not_clearly_behind() -> None:
    close = evidence([0.70, 0.71, 0.72], [1, 2, 3], seed=1)
    far = evidence([0.40, 0.71, 0.72], [1, 2, 3], seed=1)
    top = pick("pooled", close, 9)[0]
    for seen, wrong in ((close, []), (far, [0])):
        at = pick("one-se", seen, 9)[0]
        behind = seen.both[top] - seen.both
        errors = [clustered_error(row - row.mean(), seen.image) or 0.0 for row in behind]
        near = [i for i in range(3) if behind[i].mean() <= errors[i]]
        assert at == near[0] and at not in wrong


def test_shrinking_draws_to_the_average_at_the_cost_and_more_with_fewer_examples() -> None:
    quality, cost = [0.5, 0.62, 0.55, 0.7, 0.6, 0.74], [1, 2, 3, 4, 5, 6]

    def drawn(n: int) -> float:
        seen = evidence(quality, cost, n, seed=2)
        raw, score = seen.both.mean(1), RULES["shrunk"](seen)
        line = np.polyval(np.polyfit(np.log(seen.cost), raw, 1), np.log(seen.cost))
        on = np.isfinite(score)
        share = (score[on] - line[on]) / (raw[on] - line[on])
        assert share == pytest.approx(share[0]) and 0 <= share[0] < 1
        return float(share[0])

    assert drawn(40) < drawn(4000)


def test_of_equally_good_policies_the_searched_one_is_lucky_and_a_second_look_is_honest() -> None:
    lucky, honest = [], []
    for seed in range(40):
        seen = evidence([0.6] * 30, list(range(1, 31)), 64, seed)
        lucky.append(pick("search", seen, 99)[1] - 0.6)
        candidate = pick("search", seen, 99)[0]
        honest.append(seen.selection[candidate].mean() - 0.6)
    assert np.mean(lucky) > 0.08  # the most of 30 draws with a standard error of 0.06
    assert abs(np.mean(honest)) < 4 * 0.061 / np.sqrt(40)


def test_the_comparison_counts_regret_at_each_number_of_trials() -> None:
    here, courses = bed(), []
    at = [i for i in np.argsort(here.costs) if not here.presets[i]]
    for seed in range(3):
        chosen = np.random.default_rng(seed).permutation(at)[:45]
        course = Course("random", seed, evaluations=[256 * (k + 1) for k in range(45)])
        course.tried = [
            Tried(k, here.policies[i], float(here.costs[i]), here.correct[i]) for k, i in enumerate(chosen)
        ]
        courses.append(course)
    found = compare(here, courses)
    assert found["trials"] == [0, 10, 20, 40, 45.0] and found["seeds"] == 3
    rules = {r["rule"]: r for r in found["rules"]}
    assert list(rules) == ["search", "selection", "one-se", "pooled", "shrunk"]
    # before any trial all seeds have the same recipes
    assert all(r["regret_stderr"][0] == 0.0 for r in rules.values())
    assert rules["selection"]["less_than_selection"] == {"value": 0.0, "stderr": 0.0}
    for rule in rules.values():
        least = rule["rise"]["least_at"]
        assert rule["regret"][least] == min(rule["regret"])
        assert rule["rise"]["value"] == pytest.approx(rule["regret"][-1] - rule["regret"][least])
    gain = rules["selection"]["regret"][-1] - rules["pooled"]["regret"][-1]
    assert rules["pooled"]["less_than_selection"]["value"] == pytest.approx(gain)
    text = "\n".join(section(found))
    assert text.count("| `") == 5 and "regret at 40 trials" in text and "end (45)" in text
