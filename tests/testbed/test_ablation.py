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
from autotc.task import Split
from autotc.testbed import ablation_page, command
from autotc.testbed.ablation import BASELINE, FIXED, Part, ablate, recipes, search_part, shortlist, steps
from tests.fakes import FakeEvaluator
from tests.testbed.beds import bed, space

NAMES = [s.name for s in steps(space(), [t.policy for t in recipes(bed())])]


def run(policy: Policy, split: Split) -> Outcomes:
    return FakeEvaluator().evaluate(policy, split, 64)


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


def test_the_short_list_costs_no_more_and_is_best_by_what_is_seen() -> None:
    limit = float(np.median([t.cost for t in recipes(bed())]))
    listed = shortlist(bed(), recipes(bed()), limit, 3)
    assert len(listed) == 3 and all(t.cost <= limit for t in listed)
    seen = np.concatenate([bed().parts["search"], bed().parts["selection"]])
    qualities = [float(t.correct[seen].mean()) for t in listed]
    ids = {t.policy.id for t in listed}
    others = [t for t in recipes(bed()) if t.cost <= limit and t.policy.id not in ids]
    assert qualities == sorted(qualities, reverse=True)
    assert all(t.correct[seen].mean() <= qualities[-1] for t in others)
    assert shortlist(bed(), recipes(bed()), 0.0) == []


def test_the_best_of_the_short_list_on_selection_examples_is_what_is_reported() -> None:
    ran: list[tuple[str, str]] = []

    def noted(policy: Policy, split: Split) -> Outcomes:
        ran.append((policy.id, split))
        return run(policy, split)

    found = ablate(bed(), 1, 2000, noted)
    assert len(set(ran)) == len(ran)
    for row in found["rows"]:
        assert (row["policy_id"], "selection") in ran and (row["policy_id"], "held-out") in ran
        tuned = next(r for r in found["rows"] if r["step"] == NAMES[0] and r["tokens"] == row["tokens"])
        assert (row["against_tuned"] is None) == (
            row["policy_id"] == tuned["policy_id"] or row["step"] in FIXED
        )
    assert len([1 for _, split in ran if split == "held-out"]) == len({r["policy_id"] for r in found["rows"]})


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
