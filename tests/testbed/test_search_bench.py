"""Whole searches on the small test-bed, and what is said of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from autotc.cli import app
from autotc.testbed import command, page, simulate
from autotc.testbed.bed import Bed
from autotc.testbed.measure import EMPTY
from autotc.testbed.score import Candidates, area
from autotc.testbed.simulate import Course
from autotc.testbed.study import study
from tests.testbed.beds import bed, measured, points, space


def test_a_search_is_reproducible_and_counts_what_it_uses() -> None:
    one, two = (simulate.run(bed(), "random", 4, 1500) for _ in range(2))
    assert one.areas == two.areas and one.evaluations == two.evaluations
    assert one.areas != simulate.run(bed(), "random", 5, 1500).areas
    used = np.diff([0, *one.evaluations])
    assert set(used.tolist()) <= {0, 64, 128, 256}  # presets are known, losers are stopped at a rung
    assert 64 in used or 128 in used
    assert 1500 - 256 < one.evaluations[-1] <= 1500
    assert one.over == 0


def test_what_is_known_beforehand_is_where_a_search_starts() -> None:
    known = simulate.presets(bed())
    course = simulate.run(bed(), "vtw", 0, 10_000)
    assert course.exhausted and course.found is not None
    most, least = simulate.scope(bed())
    assert course.areas[-1] == pytest.approx(area(known + course.found, most, least))
    assert len(course.found.cost) <= len(space().depths["decoder"])


def test_the_figures_of_a_study_by_hand() -> None:
    """Two courses of which each found one policy; everything else is the test-bed's own."""
    most, least = simulate.scope(bed())
    floor = area(simulate.presets(bed()), most, least)
    best = area(simulate.lattice(bed()), most, least)
    nothing = Candidates(np.zeros(0), np.zeros(0), np.zeros(0))
    middle, near = (floor + part * (best - floor) for part in (0.5, 0.95))
    courses = [
        Course("default", 0, [100, 200, 300], [floor, middle, near], nothing),
        Course("default", 1, [100, 400], [middle, near], nothing),
        Course("random", 0, [500, 1000], [middle, middle], nothing),
        Course("random", 1, [500, 1000], [middle, near], nothing),
    ]
    found = study(bed(), courses, 1000)
    own, other = found["strategies"]
    assert own["gap_closed"] == pytest.approx(0.95) and own["gap_closed_stderr"] == pytest.approx(0)
    assert own["evaluations_to_target"] == 350 and own["reached_target"] == 2
    assert other["gap_closed"] == pytest.approx(0.725)
    assert other["gap_closed_stderr"] == pytest.approx(0.225)
    assert (
        other["reached_target"] == 1 and other["evaluations_to_target"] is None
    )  # one of two is not half and more
    ratio = found["ratios"][0]
    assert ratio["rival"] == "random" and ratio["ratio"] == pytest.approx(350 / 1000)
    assert 0.3 <= ratio["low"] <= 0.35 <= ratio["high"] <= 0.4
    assert (ratio["own_censored"], ratio["theirs_censored"], ratio["bound"]) == (0, 1, "at most")
    end = found["ratio_to_rivals_end"]
    assert end["rival"] == "random" and end["gap_closed"] == pytest.approx(0.725)
    assert (end["own"], end["theirs"], end["ratio"]) == (300, 1000, 0.3)  # (0.95 + 0.5) / 2 after 300
    curve = own["curve"]
    at = dict(zip(curve["evaluations"], curve["gap_closed"], strict=True))
    assert at[0.0] == pytest.approx(0) and at[1000.0] == pytest.approx(0.95)
    assert at[200.0] == pytest.approx((0.5 + 0.5) / 2) and at[100.0] == pytest.approx((0 + 0.5) / 2)
    # nothing found: the regret is what the presets lack
    for budget, value in own["regret_at"].items():
        assert value == pytest.approx(found["best_at"][budget] - found["presets_at"][budget])
    assert list(own["regret_at"]) == ["192", "128", "64"]
    json.dumps(found, allow_nan=False)


def test_the_page_says_plainly_that_a_test_bed_is_incomplete() -> None:
    state = measured().state.copy()
    state[:, 2:] = EMPTY
    part = Bed(space(), points(), replace(measured(), state=state))
    found = study(part, [simulate.run(part, "sobol", s, 400) for s in range(2)], 400)
    text = page.write(found, "search.png", "here")
    assert text.splitlines()[2].startswith("**Test-bed INCOMPLETE: ")
    assert page.table(found).startswith("Test-bed INCOMPLETE: ")
    assert "on 256 of 512 examples" in text and found["complete"] is False
    assert "nan" not in text.lower()


def load_bed() -> Bed:
    return bed()


def test_the_command_prints_one_document_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "loader", lambda folder, model: load_bed)
    options = ["--seeds", "2", "--evaluations", "700", "--strategy", "random", "--strategy", "default"]
    result = CliRunner().invoke(app, ["bench", "search", *options, "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [s["strategy"] for s in document["strategies"]] == ["random", "default"]
    for s in document["strategies"]:
        assert {"strategy", "evaluations_to_target", "gap_closed", "regret_at"} <= set(s)
        assert math.isfinite(s["gap_closed"]) and s["over_the_limit"] == 0 and s["seeds"] == 2
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "README.md").read_text()
    assert "| default |" in text
    assert "The best rival at the end, random, closes" in text and "The best rival" in page.table(document)
    assert json.loads((tmp_path / "results.json").read_text()) == document


def test_unknown_strategies_and_missing_test_beds_are_refused(tmp_path: Path) -> None:
    runner = CliRunner()
    wrong = runner.invoke(app, ["bench", "search", "--strategy", "evolutoin", "--bed", str(tmp_path)])
    assert wrong.exit_code != 0 and "Did you mean 'evolution'?" in str(wrong.exception)
    missing = runner.invoke(app, ["bench", "search", "--seeds", "1", "--bed", str(tmp_path)])
    assert missing.exit_code != 0 and "autotc bench testbed --model qwen2.5-vl" in str(missing.exception)
