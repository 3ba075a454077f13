"""Constraints on the command line: what is refused before anything runs, and what is recommended and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autotc.policy import load_policy
from autotc.store import Store
from tests.test_cli import SEARCH, autotc, searched  # noqa: F401


def members(run: Any, *words: str) -> dict[int, dict[tuple[str, str | None], float]]:
    rows = json.loads(run("front", "s", "--json", *words)[1])
    return {r["trial"]: {(m["name"], m["split"]): m["value"] for m in r["metrics"]} for r in rows}


def chosen_by(run: Any) -> dict[int, float]:
    """Quality over all examples of search and selection, by trial."""
    found = {}
    for row in json.loads(run("front", "s", "--json")[1]):
        both = [m for m in row["metrics"] if m["name"] == "quality" and m["split"] in ("search", "selection")]
        found[row["trial"]] = sum(m["n"] * m["value"] for m in both) / sum(m["n"] for m in both)
    return found


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("worst_groop_drop <= 1",), "unknown figure 'worst_groop_drop'. Did you mean 'worst_group_drop'"),
        (("quality >= 0.9", "quality <= 0.5"), "contradict one another"),
        (
            ("tflops_literature >= 900",),
            "'tflops_literature <= 800' and 'tflops_literature >= 900' contradict",
        ),
        (("quality",), "not of the form NAME <= NUMBER"),
    ],
)
def test_wrong_constraints_are_refused_before_anything_is_written(autotc, texts, message):  # noqa: F811
    code, out, err = autotc(*SEARCH, *(word for text in texts for word in ("--constraint", text)))
    assert code == 2 and message in " ".join(err.split()) and not out
    assert not list(Path().iterdir())


def test_a_wrong_constraint_of_export_writes_nothing(searched):  # noqa: F811
    code, _, err = searched("export", "s", "--constraint", "kv_gb <= 1", "-o", "p.json")
    assert code == 2 and "Did you mean 'kv_gib'" in err
    assert not Path("p.json").exists()


def test_the_search_ends_with_what_is_recommended_and_export_writes_that(searched):  # noqa: F811
    result = json.loads(searched(*SEARCH, "--json")[1])["recommendation"]
    assert result["constraints"] == ["worst_group_drop <= 0.05"] and result["split"] == "selection"
    front = members(searched)
    meeting = {t for t, m in front.items() if m["worst_group_drop", "selection"] <= 0.05}
    assert set(result["meeting"]) == meeting and set(front) > meeting
    assert result["text"] in " ".join(searched(*SEARCH)[1].split())
    code, out, err = searched("export", "s", "-o", "p.json")
    said = out if not result["misses"] else err  # what is not recommended is a warning
    assert code == 0 and result["text"] in " ".join(said.split())
    origin = load_policy("p.json").provenance
    assert origin["trial"] == result["trial"] and origin["recommendation"] == result


def test_export_takes_the_best_of_those_that_meet_the_constraint(searched):  # noqa: F811
    front, quality = members(searched), chosen_by(searched)
    drops = sorted(m["worst_group_drop", "selection"] for m in front.values())
    for limit in (drops[len(drops) // 2], 1.0):
        within = {t: quality[t] for t, m in front.items() if m["worst_group_drop", "selection"] <= limit}
        words = (
            "--best",
            "quality",
            "--constraint",
            f"worst_group_drop <= {limit}",
            "-o",
            "p.json",
            "--json",
        )
        code, out, _ = searched("export", "s", *words)
        assert code == 0
        document = json.loads(out)
        assert within[document["trial"]] == max(within.values())
        assert document["recommendation"]["misses"] == []
        assert len(document["recommendation"]["meeting"]) == len(within)


def test_export_refuses_what_breaks_the_users_own_constraint_and_names_the_nearest(searched):  # noqa: F811
    front = members(searched)
    nearest = max(front, key=lambda t: front[t]["quality", "selection"])
    words = ("export", "s", "--constraint", "quality >= 0.999", "-o", "p.json")
    code, _, err = searched(*words)
    said = " ".join(err.split())
    assert code == 1 and f"The nearest is trial {nearest}: quality" in said and f"--trial {nearest}" in said
    assert not Path("p.json").exists()
    assert searched("export", "s", "--trial", str(nearest), "-o", "p.json")[0] == 0


def test_a_default_that_nothing_meets_is_said_and_the_nearest_is_written(searched):  # noqa: F811
    code, _, err = searched("export", "s", "--max-tflops", "400", "--best", "knee", "-o", "p.json")
    front = members(searched, "--max-tflops", "400")
    assert min(m["worst_group_drop", "selection"] for m in front.values()) > 0.05
    nearest = min(front, key=lambda t: front[t]["worst_group_drop", "selection"])
    origin = load_policy("p.json").provenance
    why = origin["recommendation"]
    assert code == 0 and f"warning: {why['text']}" in err and not why["recommended"]
    assert origin["trial"] == nearest and f"The nearest is trial {nearest}: worst_group_drop" in why["text"]
    # the same words from those who report, and of a trial that was named
    _, shown, _ = searched("front", "s", "--max-tflops", "400")
    assert why["text"] in " ".join(shown.split())
    code, _, err = searched("export", "s", "--trial", str(nearest), "-o", "p.json")
    assert code == 0 and f"warning: Not recommended: trial {nearest} does not meet worst_group_drop" in err


def test_other_constraints_do_not_make_another_study_and_are_remembered(searched):  # noqa: F811
    code, _, err = searched(
        *SEARCH, "--constraint", "worst_group_drop <= 1", "--constraint", "quality >= 0.2"
    )
    assert code == 0 and "trials" not in err  # answered from the store
    result = json.loads(searched("export", "s", "-o", "p.json", "--json")[1])["recommendation"]
    assert result["constraints"] == ["worst_group_drop <= 1", "quality >= 0.2"]


def test_a_cost_limits_the_trials_and_the_front(autotc):  # noqa: F811
    assert autotc(*SEARCH, "--constraint", "kv_gib <= 0.008")[0] == 0
    front = members(autotc)
    assert front and all(m["kv_bytes", None] <= 0.008 * 2**30 for m in front.values())
    over = [r for r in Store().trials("s", role="trial") if r.state == "infeasible"]
    assert over and all("kv_gib" in (r.reason or "") and r.violations["kv_gib"] > 0 for r in over)
