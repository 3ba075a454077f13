"""The price of an engine is the paired difference on held-out of two policies that are chosen on selection."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from autotc.cli import app
from autotc.errors import SpecError
from autotc.optimism import optimism
from autotc.policy import Policy, Stage, load_policy
from autotc.price import Price, prices
from autotc.report import read, render
from autotc.statistics import interval
from autotc.store import Store
from autotc.tables.fronts import FrontView
from tests.report import made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/s.db")


def by_engine(store: Store, study: str) -> dict[str, Price]:
    return {p.engine: p for p in prices(store, study, FrontView.read(store, study, None, None).within)}


def rows(store: Store, study: str) -> dict[Any, Any]:
    return {r.label or r.number: r for r in store.trials(study)}


def test_the_price_is_that_of_the_best_against_the_best_that_runs_there(store: Store) -> None:
    made.make(store)
    found, there = by_engine(store, "study"), rows(store, "study")
    assert set(found) == {"vllm", "openvino"}
    price = found["vllm"]
    assert price.deployable == f"downsample ({there['downsample'].policy.describe()})"
    limited = [r for r in there.values() if r.policy.stages and r.costs["tflops_literature"] <= made.LIMIT]
    best = max(limited, key=lambda r: r.number_of("quality", "selection").value)
    assert best.label != "downsample"
    assert price.best is not None and best.policy.describe() in price.best
    costs = (there["downsample"].costs["tflops_exact"], best.costs["tflops_exact"])
    assert price.lost is not None and (price.cost, price.best_cost) == costs
    one, other = (store.outcomes(r.id, "held-out") for r in (best, there["downsample"]))
    plain = interval(one["correct"] - other["correct"], one["image"])
    assert (price.lost.value, price.lost.stderr, price.lost.n) == (plain.value, plain.stderr, 96)
    assert price.lost.low is not None and price.lost.high is not None
    assert price.lost.low < price.lost.value < price.lost.high
    assert f"{100 * plain.value:.1f} points [" in price.text and "n 96 held-out" in price.text
    assert (
        f"--flops-convention exact --max-tflops {costs[1]:.0f}" in price.text
    )  # it leaves much of the cost unspent


def test_limits_hold_for_both(store: Store) -> None:
    made.make(store)
    there = rows(store, "study")
    cost = there["downsample"].costs["tflops_literature"]
    found = prices(store, "study", lambda costs: costs["tflops_literature"] < cost)
    assert [p.deployable for p in found] == [None, None]
    assert "not known, nothing that it can run was measured" in found[0].text


def test_nothing_is_lost_where_the_best_runs_there(store: Store) -> None:
    made.make(store)
    cost = rows(store, "study")["downsample"].costs["tflops_exact"]
    found = {p.engine: p for p in prices(store, "study", lambda costs: costs["tflops_exact"] <= cost)}
    assert found["vllm"].lost is None and found["vllm"].best == found["vllm"].deployable
    assert (
        found["vllm"].text == f"Price of vLLM: none, it runs the best within the limits, {found['vllm'].best}"
    )


def test_a_study_for_an_engine_is_compared_with_its_sibling_for_all(store: Store) -> None:
    made.make(store, "all")
    smaller = [Stage(site="input", reducer="downsample", keep=0.15 + 0.01 * i) for i in range(4)]
    engine_study(store, "for-vllm", [made.policy(s) for s in smaller], "vllm")
    alone, both = by_engine(store, "all"), by_engine(store, "for-vllm")
    assert set(both) == {"vllm"}  # the engine that it was made for
    assert both["vllm"] == alone["vllm"]  # each knows of the other
    assert both["vllm"].deployable is not None and both["vllm"].best is not None
    there = {**rows(store, "all"), **{f"v{k}": r for k, r in rows(store, "for-vllm").items()}}
    runs = [r for r in there.values() if [s.site for s in r.policy.stages] == ["input"]]
    runs = [r for r in runs if r.costs["tflops_literature"] <= made.LIMIT]
    mine = max(runs, key=lambda r: r.number_of("quality", "selection").value)
    assert mine.policy.describe() in both["vllm"].deployable
    assert both["vllm"].best.startswith("divprune")  # of the sibling
    engine_study(store, "other-data", [made.policy(smaller[0])], "vllm", data_fingerprint="beef")
    assert by_engine(store, "all") == alone


def engine_study(store: Store, name: str, policies: list[Policy], deploy: str, **other: Any) -> None:
    spec, row = dict(store.study("all").spec), store.study("all")  # type: ignore[union-attr]
    assert row is not None
    store.create_study(name, f"f-{name}", {**spec, "deploy": deploy, **other}, row.model, row.evaluated_on)
    for number, document in enumerate(policies):
        made.finish(store, name, number, None, document, True, lambda outcomes: outcomes, row.evaluated_on)
    store.set_study_state(name, "finished")


def test_optimism_is_selection_less_held_out(store: Store) -> None:
    made.make(store)
    view = FrontView.read(store, "study", None, None)
    found = optimism(view.front)
    assert found is not None and found == view.optimism
    there = rows(store, "study")
    values, errors = [], []
    for m in view.front:
        one, other = (there[m.trial].number_of("quality", split) for split in ("selection", "held-out"))
        values.append(one.value - other.value)
        errors.append(np.hypot(one.stderr, other.stderr))
    assert found.value == pytest.approx(np.mean(values))
    assert found.stderr == pytest.approx(np.mean(errors))
    assert (found.n, found.n_heldout, found.members) == (64, 96, len(view.front))
    assert view.as_dict(view.front[0])["optimism"]["value"] == pytest.approx(values[0])
    assert optimism([]) is None


def test_without_held_out_there_is_no_optimism_and_no_price(store: Store) -> None:
    made.make(store, heldout=False)
    view = FrontView.read(store, "study", None, None)
    assert view.optimism is None
    assert "optimism" not in view.as_dict(view.front[0])
    assert all(p.deployable is None for p in by_engine(store, "study").values())


def test_the_report_prints_prices_and_optimism(store: Store) -> None:
    made.make(store)
    found = read(store, "study")
    page = unescape(render(found))
    assert [p.engine for p in found.prices] == ["vllm", "openvino"]
    assert all(p.text in page for p in found.prices)
    assert found.view.optimism is not None and found.view.optimism.text in page


def run(*words: str) -> Any:
    return CliRunner().invoke(app, words)


def test_export_refuses_what_the_engine_cannot_run_and_says_how_to_set_up_what_it_can(
    store: Store, tmp_path: Path
) -> None:
    made.make(store, "all")
    cut = Stage(site="projector", reducer="cdpruner", keep=0.15)
    engine_study(store, "for-openvino", [made.policy(cut)], "openvino")
    where = ("--storage", store.url, "-o", str(tmp_path / "p.json"))
    refused = run("export", "all", "--deploy", "vllm", *where)
    assert isinstance(refused.exception, SpecError) and not (tmp_path / "p.json").exists()
    assert "stages[0]: divprune at projector: vLLM runs downsample at input" in str(refused.exception)
    assert "No member of the front runs there; search with --deploy vllm" in str(refused.exception)
    written = json.loads(run("export", "for-openvino", "--json", *where).stdout)
    assert written["deploy"] == "openvino"  # what the study was searched for
    assert "config.pruning_ratio = 85" in " ".join(written["how_to"])
    assert load_policy(tmp_path / "p.json").stages == (cut,)
    plain = json.loads(run("export", "for-openvino", "--deploy", "hf", "--json", *where).stdout)
    assert plain["how_to"] == []
