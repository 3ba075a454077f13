"""What a report claims, and what it refuses to claim."""

from __future__ import annotations

import numpy as np
import pytest

from autotc.search._claims import LEAST_IMAGES, SPREAD, Comparison, conclude, power, spread
from autotc.statistics import detectable
from tests.search.test_racing import outcomes


def against(one: np.ndarray, other: np.ndarray, rival: str = "random", per_image: int = 2) -> Comparison:
    return Comparison(7, rival, "baseline", 90.0, 100.0, outcomes(one, per_image), outcomes(other, per_image))


def test_claims_are_corrected_for_one_another() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(512) < 0.7
    better = base | (rng.random(512) < 0.2)
    alike = np.where(rng.random(512) < 0.1, rng.random(512) < 0.7, base)
    single, _ = conclude([against(better, base)], looks=3)
    claims, refused = conclude([against(better, base), against(alike, base, "fastv")], looks=3)
    assert not refused
    assert [c.verdict for c in claims] == ["better", "no clear difference"]
    assert (claims[0].high - claims[0].low) > (single[0].high - single[0].low)
    assert single[0].p == single[0].p_holm and claims[0].p_holm == pytest.approx(2 * claims[0].p)
    assert claims[0].p_mcnemar < 0.001 and claims[1].p_mcnemar > 0.05
    assert claims[0].n == 512 and claims[0].images == 256 and claims[0].looks == 3
    assert "Holm over 2 claims: better" in claims[0].text and "90% of its exact cost" in claims[0].text
    assert conclude([against(base, better)], 1)[0][0].verdict == "worse"


def test_the_same_answers_have_a_width_all_the_same() -> None:
    base = np.arange(512) % 3 > 0
    (claim,), _ = conclude([against(base, base)], 1)
    assert claim.verdict == "the same answers on every example" and claim.difference == 0
    assert claim.low < 0 < claim.high and claim.p_holm == claim.p_mcnemar == 1


@pytest.mark.parametrize(
    ("n", "per_image", "images"), [(64, 64, "1 image;"), (2 * LEAST_IMAGES - 2, 2, "19 images")]
)
def test_few_images_allow_no_claim(n: int, per_image: int, images: str) -> None:
    claims, refused = conclude([against(np.ones(n), np.zeros(n), "random", per_image)], 1)
    assert not claims
    assert images in refused[0] and "random" in refused[0] and "--heldout-examples" in refused[0]
    assert conclude([against(np.ones(2 * LEAST_IMAGES), np.zeros(2 * LEAST_IMAGES))], 1)[0]


def test_what_can_be_seen_is_said_with_what_it_rests_on() -> None:
    line = power(512, 512, None)
    assert f"a difference of {100 * detectable(SPREAD, 512, 4):.1f} points" in line
    assert "spread of a paired difference 0.50" in line and "leaderboard" in line
    assert f"give --heldout-examples 2048 for {100 * detectable(SPREAD, 2048, 4):.1f}." in line
    assert "stored in this study" in power(512, 512, 0.3)
    assert "the data has no more" in power(100, 512, None)
    assert power(2, 512, None).startswith("No claim")


def test_spread_is_that_of_the_stored_comparisons() -> None:
    rng = np.random.default_rng(1)
    base = (rng.random(400) < 0.7).astype(float)
    flipped = np.where(rng.random(400) < 0.25, 1 - base, base)
    assert spread([outcomes(flipped)], outcomes(base)) == pytest.approx(0.5, abs=0.05)
    assert spread([outcomes(base)], outcomes(base)) is None
