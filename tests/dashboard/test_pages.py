"""Every page on an empty store, a small one and one of 10,000 trials; choosing, exporting, and hostile names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from streamlit.testing.v1 import AppTest

from autotc.environment import described
from autotc.export import front, members
from autotc.policy import ModelRef, Number, Policy, Stage, load_policy
from autotc.recommend import recommend
from autotc.store import Store
from autotc.store.sample import MADE_WITH, fill
from autotc.store.schema import Metric, Study, Trial
from dashboard import data, fronts, parts
from tests.dashboard.conftest import PAGES, Open, title

SECOND = "qwen2.5-vl-0100"
EVIL = "<script>alert(1)</script> **bold** [x](http://e.vil) '; DROP TABLE study; -- :red[hot] $x^2$"


def fine(at: AppTest, page: str) -> None:
    assert [e.message for e in at.exception] == []
    assert [t.value for t in at.title] == [title(page)]


def texts(at: AppTest) -> str:
    """All that is written on a page as Markdown: what a browser would interpret."""
    kinds = (at.markdown, at.caption, at.info, at.warning, at.error)
    return "\n".join(str(e.value) for kind in kinds for e in kind)


def chosen(at: AppTest, key: str = "trial") -> str:
    return str(at.selectbox(key=key).value)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_no_database_at_all(opened: Open, tmp_path: Path, page: str) -> None:
    at = opened(f"sqlite:///{tmp_path}/none.db", page)
    fine(at, page)
    assert not (tmp_path / "none.db").exists()
    if page not in ("methods",):
        assert any("autotc search --model" in c.value for c in at.code)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_a_small_store(opened: Open, small: str, page: str) -> None:
    at = opened(small, page)
    fine(at, page)
    assert not at.error


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_ten_thousand_trials(opened: Open, large: str, page: str) -> None:
    at = opened(large, page)
    fine(at, page)
    assert not at.error


def test_the_list_of_studies_says_what_the_store_holds(opened: Open, small: str) -> None:
    table = opened(small).dataframe[0].value
    assert list(table["study"]) == [SECOND, "qwen2.5-vl-0000"]
    assert list(table["state"]) == ["running", "done"]
    assert list(table["trials"]) == ["39 of 40", "40 of 40"]
    assert list(table["run with"]) == [described(MADE_WITH)] * 2
    store = Store(small)
    spec = store.study(SECOND).spec  # type: ignore[union-attr]
    on_front, split = front(members(store, SECOND), spec["max_tflops"])
    assert table["policies"][0] == len(on_front)
    best = max(on_front, key=lambda m: m.value("quality", split)).value("quality")
    assert str(table["best quality"][0]).startswith(f"{100 * best:.1f} ±")


def test_the_filter_narrows_the_list(opened: Open, small: str) -> None:
    at = opened(small)
    at.text_input(key="filter").set_value("RUNNING").run()
    assert list(at.dataframe[0].value["study"]) == [SECOND]


def test_the_policy_first_shown_is_the_one_that_export_takes(opened: Open, small: str) -> None:
    store = Store(small)
    spec = store.study(SECOND).spec  # type: ignore[union-attr]
    on_front, split = front(members(store, SECOND), spec["max_tflops"])
    assert chosen(opened(small, "front")) == str(recommend(on_front, split).member.trial)


def test_the_budget_slider_names_the_best_stored_policy_within_it(opened: Open, small: str) -> None:
    at = opened(small, "front")
    everything = members(Store(small), SECOND)
    cheapest = min(m.value("tflops_literature") for m in everything if not m.reference)
    seen = set()
    for limit in (int(cheapest) + 60, int(cheapest) + 400):
        at.slider(key="budget").set_value(limit).run()
        on_front, split = front(everything, limit)
        best = recommend(on_front, split).member
        assert chosen(at) == str(best.trial)
        why = recommend(on_front, split)
        kind = "best policy" if why.recommended else "policy nearest to the constraints"
        said = texts(at).replace("\\", "")
        assert f"The {kind} at {limit:,} is trial {best.trial}" in said
        assert why.text in said and bool(at.warning) is not why.recommended
        assert list(at.dataframe[0].value["trial"]) == [str(m.trial) for m in on_front]
        seen.add(best.trial)
    assert len(seen) == 2


def test_a_policy_that_breaks_a_constraint_is_shown_and_leaves_with_the_reason(
    opened: Open, small: str
) -> None:
    store = Store(small)
    everything = members(store, SECOND)
    on_front, split = front(everything, store.study(SECOND).spec["max_tflops"])  # type: ignore[union-attr]
    worst = max(on_front, key=lambda m: m.value("worst_group_drop", split))
    why = recommend(on_front, split, named=worst)
    assert not why.recommended
    at = opened(small, "policy", study=SECOND, trial=str(worst.trial))
    assert [w.value.replace("\\", "") for w in at.warning] == [why.text]
    shown = json.loads(next(c.value for c in at.code if c.language == "json"))
    assert shown["provenance"]["recommendation"] == why.as_dict()


def test_a_click_on_a_line_of_the_table_selects_its_trial(opened: Open, small: str) -> None:
    at = opened(small, "front")
    trials = list(at.dataframe[0].value["trial"])
    other = next(i for i, trial in enumerate(trials) if trial != chosen(at))
    at.session_state["members"] = {"selection": {"rows": [], "columns": [], "cells": [(other, "policy")]}}
    at.run()
    fine(at, "front")
    assert chosen(at) == trials[other]


def test_a_click_on_a_point_selects_its_trial_also_off_the_front(opened: Open, small: str) -> None:
    at = opened(small, "front")
    on_front = set(at.dataframe[0].value["trial"])
    dominated = next(
        str(m.trial)
        for m in members(Store(small), SECOND)
        if not m.reference and str(m.trial) not in on_front
    )
    point = {"customdata": [dominated], "point_index": 0}
    at.session_state["front"] = {
        "selection": {"points": [point], "point_indices": [0], "box": [], "lasso": []}
    }
    at.run()
    fine(at, "front")
    assert chosen(at) == dominated
    assert f"trial {dominated}:" in texts(at).replace("\\", "")


def test_the_download_is_the_policy_with_its_figures_and_origin(opened: Open, small: str) -> None:
    at = opened(small, "policy")
    fine(at, "policy")
    view = data.study(SECOND)
    picked = fronts.picked(view, view.limit)
    document = data.policy_document(view, chosen(at), fronts.why(view, picked, chosen(at)))
    shown = next(c.value for c in at.code if c.language == "json")
    assert json.loads(shown) == json.loads(document.json_text())
    policy = load_policy(json.loads(shown))
    assert policy.provenance["study"] == SECOND
    assert policy.provenance["environment"] == MADE_WITH
    assert policy.provenance["recommendation"] == picked.why.as_dict()  # type: ignore[union-attr]
    origin = next(t.value for t in at.dataframe if "what" in t.value)
    assert described(MADE_WITH) in set(origin["value"])
    assert str(policy.provenance["trial"]) == chosen(at)
    assert {n.name for n in policy.expected} >= {"quality", "tflops_exact"}


def test_the_budget_goes_along_to_the_policy(opened: Open, small: str) -> None:
    everything = members(Store(small), SECOND)
    limit = sorted(m.value("tflops_literature") for m in everything if not m.reference)[12] + 1
    best = recommend(*front(everything, int(limit))).member
    budget = {"budget": str(int(limit)), "counts": "literature"}
    at = opened(small, "policy", study=SECOND, trial=str(best.trial), **budget)
    assert chosen(at) == str(best.trial)
    assert recommend(*front(everything, int(limit))).text in texts(at).replace("\\", "")
    assert "Chosen by hand" not in texts(at)


def test_only_what_was_confirmed_is_drawn_as_the_front(opened: Open, small: str) -> None:
    at = opened(small, "front")
    figure = json.loads(at.get("plotly_chart")[0].proto.spec)
    drawn = next(trace for trace in figure["data"] if trace.get("name") == "front")
    assert {key for (key,) in drawn["customdata"]} == set(at.dataframe[0].value["trial"])
    assert chosen(at) in {key for (key,) in drawn["customdata"]}


def test_a_study_in_the_url_is_the_one_shown(opened: Open, small: str) -> None:
    assert opened(small, "front", study="qwen2.5-vl-0000").selectbox(key="study").value == "qwen2.5-vl-0000"
    at = opened(small, "front", study="gone")
    fine(at, "front")
    assert at.selectbox(key="study").value == SECOND


def test_two_studies_stand_on_the_same_axes(opened: Open, small: str) -> None:
    at = opened(small, "front")
    at.selectbox(key="other").set_value("qwen2.5-vl-0000").run()
    fine(at, "front")
    figure = json.loads(at.get("plotly_chart")[0].proto.spec)
    assert "front of the other study" in [trace.get("name") for trace in figure["data"]]


def test_failures_and_workers_are_named(opened: Open, small: str) -> None:
    at = opened(small, "runs")
    assert "node-1:4711:1a2b3c4d" in list(at.dataframe[0].value["worker"])
    assert any("out of memory" in str(v) for v in at.dataframe[1].value["reason"])
    assert {m.label: m.value for m in at.metric}["out of memory"] == "1"


def test_the_zoo_is_filtered_by_what_methods_declare(opened: Open, small: str) -> None:
    at = opened(small, "methods")
    everything = len(at.dataframe[0].value)
    at.segmented_control(key="aware").set_value("yes").run()
    kept = at.dataframe[0].value
    assert 0 < len(kept) < everything
    assert set(kept["reads the question"]) == {"yes"}
    assert "fastv" in set(kept["method"])


# --- hostile stores ---


@pytest.fixture
def hostile(tmp_path: Path) -> Store:
    url = f"sqlite:///{tmp_path}/evil.db"
    fill(url, [12])
    store = Store(url)
    with store._write() as connection:
        connection.execute(update(Study).values(name=EVIL, evaluated_on=EVIL, state=EVIL))
        connection.execute(update(Trial).where(Trial.role == "reference").values(label=EVIL))
        connection.execute(update(Trial).where(Trial.state == "failed").values(reason=EVIL))
    return store


@pytest.mark.parametrize("page", PAGES)
def test_names_with_markup_and_sql_are_text(opened: Open, hostile: Store, page: str) -> None:
    at = opened(hostile.url, page)
    fine(at, page)
    said = texts(at)
    assert "<script>" not in said
    assert "**bold**" not in said
    assert "[x](" not in said
    for chart in at.get("plotly_chart"):
        assert "<script>" not in chart.proto.spec
    assert Store(hostile.url).study(EVIL) is not None


@pytest.mark.parametrize("page", PAGES)
def test_figures_that_are_missing_leave_the_pages_open(opened: Open, hostile: Store, page: str) -> None:
    with hostile._write() as connection:
        connection.execute(Metric.__table__.delete().where(Metric.name != "kl"))
    fine(opened(hostile.url, page), page)


@pytest.mark.parametrize("page", ["front", "policy"])
def test_a_figure_that_is_no_number_is_a_plain_message(opened: Open, hostile: Store, page: str) -> None:
    with hostile._write() as connection:
        connection.execute(update(Metric).where(Metric.name == "quality").values(value=float("inf")))
    at = opened(hostile.url, page)
    fine(at, page)
    assert [e.value for e in at.error] == ["This cannot be shown."]
    assert "finite number" in at.code[0].value


def test_a_policy_of_a_million_characters_is_offered_but_not_printed(opened: Open, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/long.db"
    store = Store(url)
    model = ModelRef(family="qwen2_5_vl", id="m", decoder_layers=28, vision_blocks=32)
    stage = Stage(site="projector", reducer="r" * 1_000_000, keep=0.5)
    store.create_study("long", "f", {"model": "m", "trials": 1}, model.model_dump(), "here")
    trial = store.add_trial("long", 0, Policy(model=model, stages=(stage,)))
    quality: dict[str, Any] = {
        "unit": "accuracy",
        "kind": "measured",
        "on": "here",
        "split": "search",
        "n": 9,
    }
    costs = {"tflops_exact": 5.0, "tflops_literature": 1.0, "visual_tokens": 3.0}
    store.finish_trial(trial, numbers=[Number(name="quality", value=0.5, **quality)], costs=costs)
    for page in PAGES:
        at = opened(url, page)
        fine(at, page)
        drawn = sum(len(str(e.value)) for kind in (at.markdown, at.code, at.caption, at.text) for e in kind)
        assert drawn < 50_000
    assert any("too many for a page" in t.value for t in opened(url, "policy").text)


# --- the password ---


def test_nothing_is_shown_before_the_password(
    opened: Open, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    monkeypatch.setattr(parts, "DELAY_S", 0.0)
    for page in PAGES:
        monkeypatch.setenv("AUTOTC_PASSWORD_FILE", str(secret))
        at = opened(small, page)
        assert [t.value for t in at.title] == ["autotc"]
        assert not at.dataframe and not at.selectbox
    at = opened(small)
    assert [t.value for t in at.title] == ["autotc"]
    assert not at.dataframe
    at.text_input[0].set_value("wrong")
    at.button[0].click().run()
    assert [e.value for e in at.error] == ["That is not the password."]
    assert not at.dataframe
    at.text_input[0].set_value("correct horse")
    at.button[0].click().run()
    assert at.dataframe
