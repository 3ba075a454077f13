"""Each step searches its own part of the space, and what it picks is what is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autotc._outcomes import Outcomes
from autotc.errors import SpecError
from autotc.policy import Policy
from autotc.search._inverse import encode
from autotc.search.strategies.points import from_unit
from autotc.testbed import ablation_page, command
from autotc.testbed.ablation import BASELINE, Part, ablate, pick, recipes, search_part, steps
from tests.fakes import FakeEvaluator
from tests.testbed.beds import bed, space

NAMES = [s.name for s in steps(space(), [t.policy for t in recipes(bed())])]


def run(policy: Policy) -> Outcomes:
    return FakeEvaluator().evaluate(policy, "held-out", 64)


@pytest.mark.parametrize("place", range(len(NAMES)), ids=NAMES)
def test_points_are_moved_into_the_part(place: int) -> None:
    """Of random points most end up inside of their part, and what a smaller part holds the next one does too."""
    there = steps(space(), [t.policy for t in recipes(bed())])
    part, rng = Part(space(), there[place].restrict), np.random.default_rng(0)
    found = [
        part.decode(from_unit(space().distributions, rng.random(len(space().distributions)))).policy
        for _ in range(60)
    ]
    inside = [p for p in found if there[place].holds(p)]
    assert len(inside) >= 20
    if place:
        for later in there[max(place, 1) :]:
            assert all(later.holds(p) for p in inside)


def test_one_place_is_the_first_depth_and_position_moves_it() -> None:
    def layers(place: int) -> set[int | None]:
        step = steps(space(), [t.policy for t in recipes(bed())])[place]
        return {t.policy.stages[0].layer for t in search_part(bed(), step, 0, 12_000)}

    assert layers(1) < layers(2)


def test_a_recipe_is_a_point_of_the_part_that_tunes_it() -> None:
    tune = steps(space(), [t.policy for t in recipes(bed())])[0]
    for recipe in recipes(bed()):
        point = encode(space(), recipe.policy)
        if point is not None:
            assert tune.holds(recipe.policy)
            assert (
                Part(space(), tune.restrict).decode(point).policy.stages[0].reducer
                == recipe.policy.stages[0].reducer
            )


def test_what_is_picked_costs_no_more_and_is_best_by_what_is_seen() -> None:
    limit = float(np.median([t.cost for t in recipes(bed())]))
    chosen = pick(bed(), recipes(bed()), limit)
    assert chosen is not None and chosen.cost <= limit
    seen = np.concatenate([bed().parts["search"], bed().parts["selection"]])
    assert all(
        t.correct[seen].mean() <= chosen.correct[seen].mean() for t in recipes(bed()) if t.cost <= limit
    )
    assert pick(bed(), recipes(bed()), 0.0) is None


def test_the_page_shows_every_step_at_every_budget(tmp_path: Path) -> None:
    found = ablate(bed(), 2, 3000, run)
    budgets = {r["tokens"] for r in found["rows"]}
    assert budgets == {"192", "128", "64"}
    for tokens in budgets:
        rows = [r for r in found["rows"] if r["tokens"] == tokens]
        names = [r["step"] for r in rows]
        assert names[-len(NAMES) :] == NAMES
        assert all(r["cost"] <= r["limit"] * (1 + 1e-9) and r["n"] == 64 for r in rows)
        assert (
            all((r["against_images"] is None) == (r["step"] == BASELINE) for r in rows)
            or BASELINE not in names
        )
    text = ablation_page.write(found, "ablation.png", "made")
    assert all(name in text for name in NAMES)
    ablation_page.draw(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_a_test_bed_it_says_how_to_measure_one(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"no test-bed of qwen2\.5-vl there\. Measure one: autotc bench testbed"
    ):
        command.ablation(tmp_path, "qwen2.5-vl", 1, 1280, 16, None, lambda line: None)
