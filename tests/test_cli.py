"""The command line as its user types it: what it prints, what it writes, and which exit code it gives."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from autotc import cli, running
from autotc.policy import load_policy
from autotc.search.setting import Setting
from autotc.workload import PROFILES
from tests.fakes import FULL, PROXY, accept, fake_evaluator

SEARCH = ("search", "--model", "qwen2.5-vl", "--max-tflops", "800", "--trials", "14", "--study", "s")


@pytest.fixture
def autotc(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOTC_STORAGE", raising=False)
    setting = Setting(FULL, PROXY, "proxy:fake", PROFILES["vqa"], fake_evaluator, "data", check=accept)
    monkeypatch.setattr(running, "prepare", lambda spec: setting)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["autotc", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        code = stop.value.code
        return (0 if code is None else int(code)), out, err

    return run


@pytest.fixture
def searched(autotc):
    code, out, _ = autotc(*SEARCH)
    assert code == 0
    assert "Finished: 14 of 14 trials" in out
    return autotc


def test_search_prints_front_claims_and_what_to_type_next(autotc):
    code, out, err = autotc(*SEARCH)
    assert code == 0
    assert "autotc export s" in out
    assert "uncompressed" in out
    assert "random" in out
    assert "trials 14/14" in err


def test_the_same_command_answers_a_finished_study_without_running(searched):
    code, out, err = searched(*SEARCH)
    assert code == 0
    assert "--trials 28" in out
    assert err.count("selection") == 0


def test_search_json_is_one_document(autotc):
    code, out, _ = autotc(*SEARCH, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["state"] == "finished"
    assert result["front"]


def test_front_keeps_the_contract(searched):
    code, out, _ = searched("front", "s", "--json", "--with-references")
    rows = json.loads(out)
    assert code == 0
    assert {"trial", "policy", "reference", "metrics"} <= set(rows[0])
    assert {"name", "value", "unit", "kind", "on", "split", "stderr", "n"} <= set(rows[0]["metrics"][0])
    members = [r for r in rows if not r["reference"]]
    assert members
    assert any(r["reference"] for r in rows)
    cost = {r["trial"]: {m["name"]: m["value"] for m in r["metrics"]} for r in members}
    assert all(c["tflops_literature"] <= 800 for c in cost.values())


def test_a_new_budget_is_answered_from_stored_trials(searched):
    _, out, _ = searched("front", "s", "--json", "--max-tflops", "400")
    for row in json.loads(out):
        costs = {m["name"]: m["value"] for m in row["metrics"]}
        assert costs["tflops_literature"] <= 400


def test_front_writes_pictures(searched):
    code, _, err = searched("front", "s", "--plot", "front.html", "--plot", "front.png")
    assert code == 0
    assert "wrote front.html" in err
    assert Path("front.png").stat().st_size > 10_000


@pytest.mark.parametrize("best", ["quality", "knee", "cheapest"])
def test_export_writes_a_policy_with_its_figures_and_origin(searched, best):
    code, out, _ = searched("export", "s", "--best", best, "-o", "p.json")
    assert code == 0
    assert 'autotc.load_policy("p.json")' in out
    policy = load_policy("p.json")
    assert policy.provenance["study"] == "s"
    assert {n.name for n in policy.expected} >= {"quality", "tflops_literature", "tflops_exact"}
    assert policy.model.decoder_layers == 28


def test_export_of_an_unknown_trial_writes_nothing(searched):
    code, _, err = searched("export", "s", "--trial", "999", "-o", "p.json")
    assert code == 2
    assert "no finished trial 999" in err
    assert not Path("p.json").exists()


def test_list_and_show(searched):
    assert json.loads(searched("list", "reducers", "--json")[1])[0].keys() >= {
        "name",
        "sites",
        "needs",
        "query_aware",
        "fidelity",
        "source",
        "presets",
    }
    assert "fastv" in searched("list", "reducers")[1]
    assert "2403.06764" in searched("show", "fastv")[1]
    assert "s" in searched("list", "studies")[1]
    assert json.loads(searched("list", "schema")[1])["additionalProperties"] is False
    assert json.loads(searched("show", "3", "--study", "s", "--json")[1])["trial"] == 3


def test_papers_are_answered_filtered_and_written_as_a_page(autotc):
    rows = json.loads(autotc("list", "papers", "--json")[1])
    assert len(rows) == 355
    assert all(row["status"] and row["why"] and row["answer"] for row in rows)
    fastv = next(row for row in rows if row["arxiv"] == "2403.06764")
    assert (fastv["status"], fastv["reducers"], fastv["year"]) == ("reducer", ["fastv"], 2024)
    few = json.loads(autotc("list", "papers", "--status", "planned", "--match", "frames", "--json")[1])
    assert few and all(row["status"] == "planned" and "videos" in row["waits_for"] for row in few)
    printed = autotc("list", "papers", "--status", "study")[1]
    assert f"{sum(row['status'] == 'study' for row in rows)} of 355 published systems" in printed
    assert autotc("list", "papers", "--markdown")[1].startswith("# The catalogue")
    assert "`fastv`" in autotc("list", "reducers", "--markdown")[1]
    assert autotc("list", "reducers", "--match", "no such words")[1] == "no reducers\n"


def test_published_cost_table(autotc):
    seen = {}
    for tokens in (576, 192, 128, 64):
        code, out, _ = autotc("cost", "--model", "llava-1.5-7b", "--visual-tokens", str(tokens), "--json")
        assert code == 0
        seen[tokens] = json.loads(out)
        assert {"tflops_literature", "tflops_exact", "memory_gib", "visual_tokens"} <= set(seen[tokens])
    figures = {n: round(c["tflops_literature"], 1) for n, c in seen.items()}
    assert figures == {576: 3817.2, 192: 1253.1, 128: 833.2, 64: 415.5}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("cost", "--model", "qwen2.5-v"), "qwen2.5-vl"),
        (("cost", "--model", "qwen2.5-vl", "--workload", "vqq"), "Did you mean 'vqa'"),
        (("cost", "--model", "qwen2.5-vl", "--policy", "none.json"), "cannot be read"),
        (("cost", "--model", "qwen2.5-vl", "--visual-tokens", "100000"), "out of range"),
        (("show", "fasv"), "Did you mean 'fastv'"),
        (("list", "reducer"), "Did you mean 'reducers'"),
        (("list", "papers", "--status", "planed"), "Did you mean 'planned'"),
        (("list", "models", "--status", "planned"), "only papers have one"),
        (("list", "models", "--markdown"), "no page of 'models'"),
        (("list", "papers", "--markdown", "--match", "video"), "writes the whole page"),
        (("front",), "holds no study yet"),
        (("front", "nope"), "unknown study"),
        (("search", "--model", "qwen2.5-vl", "--sampler", "tpee"), "Did you mean 'tpe'"),
        (("search", "--model", "qwen2.5-vl", "--reducer", "fasv"), "Did you mean 'fastv'"),
        (("search", "--model", "qwen2.5-vl", "--max-tflops", "0.001"), "floor"),
        (("search",), "Missing option"),
    ],
)
def test_bad_input_is_explained_with_exit_code_2_and_nothing_is_written(autotc, words, says):
    code, out, err = autotc(*words)
    assert code == 2
    assert says in err
    assert out == ""
    assert list(Path().iterdir()) == []


def test_every_command_has_help(autotc):
    for words in (
        (),
        ("search",),
        ("front",),
        ("export",),
        ("eval",),
        ("verify",),
        ("cost",),
        ("list",),
        ("show",),
        ("db",),
        ("db", "upgrade"),
        ("db", "check"),
        ("bench",),
        ("bench", "evaluate"),
    ):
        code, out, _ = autotc(*words, "--help")
        assert code == 0
        assert "Usage" in out


def test_db_check_and_upgrade(searched):
    assert searched("db", "check")[0] == 0
    assert searched("db", "upgrade")[0] == 0


def test_another_programs_database_is_refused(autotc, tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("create table shop (id integer)")
    connection.close()
    before = (tmp_path / "other.db").read_bytes()
    code, _, err = autotc(*SEARCH, "--storage", f"sqlite:///{tmp_path}/other.db")
    assert code == 2
    assert "StoreError" in err
    assert (tmp_path / "other.db").read_bytes() == before


def test_interrupt_prints_the_front_so_far_and_gives_130(autotc, monkeypatch):
    calls = 0

    def impatient(self, step) -> None:
        nonlocal calls
        calls += step.phase == "trials"
        if calls == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr("autotc.progress.SearchProgress.__call__", impatient)
    code, out, _ = autotc(*SEARCH)
    assert code == 130
    assert "Interrupted" in out
    assert "go on: the same command" in out
