"""`autotc bench store` on a few trials: what is counted, printed, written and refused; no time is judged."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autotc import running
from autotc.cli import app
from autotc.errors import SpecError, StoreError
from autotc.search.space import Space
from autotc.service import bench, page
from autotc.store import Store
from autotc.store.sample import fill
from tests.fakes import FULL, PROXY, accept
from tests.search.points import REDUCERS
from tests.search.test_study import SETTING
from tests.testbed.beds import VQA

TRIALS, REPEATS = 200, 2
SIZES = [2, 20, 200]
ONCE = {
    "history read by a new worker",
    "trials read by a new worker",
    "front, as the command line reads it",
    "front over HTTP, first time",
    "dashboard: list of all studies",
}
MADE_UP: dict[str, Any] = {
    "database": "sqlite 3.45.1",
    "trials": 1710,
    "parameters": 28,
    "environment": {"autotc": "0.1.0", "python": "3.12.4", "cpu": "a processor", "cores": 2},
    "load": {"before": [0.5, 0.4, 0.3], "after": [1.5, 0.9, 0.5]},
    "fill_s": 12.4,
    "peak_gib": 0.75,
    "steps": [
        {"step": what, "trials": n, "p50_s": p50, "p99_s": 2 * p50, "cpu_s": cpu, "n": runs, "bar_s": bar}
        for what, n, p50, cpu, runs, bar in [
            ("history read by a new worker", 10, 0.004, 0.002, 1, None),
            ("history read by a new worker", 1000, 0.4, 0.2, 1, None),
            ("ask and tell, besides the sampler", 10, 0.05, 0.03, 30, None),
            ("ask and tell, besides the sampler", 1000, 0.101, 0.045, 30, 0.1),
            ("proposal of the default strategy", 10, 0.001, 0.001, 30, None),
            ("proposal of the default strategy", 1000, 0.1, 0.09, 30, 0.1),
        ]
    ],
}
ROWS = [
    "| ms | 10 trials | 1,000 trials | cpu, 1,000 : 10 |",
    "|---|---:|---:|---:|",
    "| history read by a new worker | 4.0; cpu 2.0 | 400; cpu 200 | 100.0 |",
    "| ask and tell, besides the sampler | 50 / 100; cpu 30 | 101 / 202; cpu 45, bar 100 missed | 1.5 |",
    "| proposal of the default strategy | 1.0 / 2.0; cpu 1.0 | 100 / 200; cpu 90, bar 100 | 90.0 |",
]


def space() -> Space:
    return Space(FULL, PROXY, VQA, 800, "literature", REDUCERS, accept)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, list[str]]:
    """One real run with bars that one of its sizes meets and the other cannot; its result, database and messages."""
    url = f"sqlite:///{tmp_path_factory.mktemp('bench-store')}/autotc.db"
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "BARS", {20: 0.0, 200: math.inf})
        patch.setattr(bench, "SAMPLER_BAR", {2: math.inf})
        return bench.run(url, TRIALS, REPEATS, space(), said.append), url, said


def test_every_step_is_timed_once_for_every_size(ran: tuple[dict[str, Any], str, list[str]]) -> None:
    found = ran[0]
    assert found["trials"] == 200 + 20 + 2 + 10 * 60 and found["parameters"] == 28
    assert found["database"].startswith("sqlite 3.")
    steps = Counter((s["step"], s["trials"]) for s in found["steps"])
    names = {s["step"] for s in found["steps"]}
    assert set(steps) == {(name, size) for name in names for size in SIZES}
    assert set(steps.values()) == {1} and names >= {*ONCE, *(line.split(" | ")[0][2:] for line in ROWS[2:])}
    assert {s["step"]: s["n"] for s in found["steps"]} == {n: 1 if n in ONCE else REPEATS for n in names}
    assert all(0 < s["p50_s"] <= s["p99_s"] and s["cpu_s"] >= 0 for s in found["steps"])
    assert len(found["load"]["before"]) == 3 and found["peak_gib"] > 0


def test_bars_stand_beside_their_step_and_size_alone(ran: tuple[dict[str, Any], str, list[str]]) -> None:
    bars = {(s["step"], s["trials"]): s["bar_s"] for s in ran[0]["steps"] if s["bar_s"] is not None}
    assert bars == {
        ("ask and tell, besides the sampler", 20): 0.0,
        ("ask and tell, besides the sampler", 200): math.inf,
        ("proposal of the default strategy", 2): math.inf,
    }
    rows = [r for r in page.steps(ran[0]).splitlines() if r.startswith("| ask and tell")]
    (cells,) = ([c.strip() for c in row.strip("|").split("|")] for row in rows)
    assert "bar" not in cells[1] and cells[2].endswith("bar 0.0 missed") and cells[3].endswith("bar inf")
    assert set(bench.BARS) == {1_000, 10_000, 100_000}  # the sizes of the default run


def test_what_was_asked_is_told_and_both_sides_of_the_database_agree(
    ran: tuple[dict[str, Any], str, list[str]],
) -> None:
    store = Store(ran[1])
    studies = store.studies()
    assert [row.spec["trials"] for row in studies] == [200, 20, 2, *[60] * 10]
    for row, size in zip(studies, (200, 20, 2), strict=False):
        assert row.counts["complete"] + row.counts.get("failed", 0) >= size + REPEATS
        assert "running" not in row.counts
        ledger = bench._ledger(store, row.name)
        assert ledger.count() == sum(row.counts.values()) and ledger.running() == []
        ledger.close()
    store.close()


def test_a_database_that_was_filled_is_used_again_and_no_other(
    ran: tuple[dict[str, Any], str, list[str]], tmp_path: Path
) -> None:
    url, first = ran[1:]
    assert any("writing" in line for line in first) and not any("filled already" in line for line in first)
    store, said = Store(url), list[str]()
    sizes = [200, 20, 2, *[60] * 10]
    names = bench._fill(store, sizes, {}, said.append)
    assert names == [row.name for row in store.studies()] and said[0].endswith("is filled already")
    with pytest.raises(SpecError, match="wrote with another --trials"):
        bench._fill(store, [100, 10, 1, *[60] * 10], {}, said.append)
    store.close()
    mine = f"sqlite:///{tmp_path}/mine.db"
    fill(mine, [3])
    with pytest.raises(SpecError, match=r"mine\.db holds studies that this command did not write"):
        bench.run(mine, TRIALS, REPEATS, space(), said.append)
    store = Store(mine)
    assert sum(store.studies()[0].counts.values()) == 3  # none was added
    store.close()


# --- the command ---


def run(*options: str) -> Result:
    return CliRunner().invoke(app, ["bench", "store", *options])


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command asks of the benchmark, which is not run."""
    asked: list[Any] = []

    def answer(url: str | None, trials: int, repeats: int, space: Space, say: Any) -> dict[str, Any]:
        asked.append((url, trials, repeats, isinstance(space, Space)))
        say("a study of 1,000 trials")
        return MADE_UP

    monkeypatch.setattr(bench, "run", answer)
    monkeypatch.setattr(running, "prepare", lambda spec: SETTING)
    return asked


def test_what_the_command_prints(made_up: list[Any]) -> None:
    result = run("--trials", "1000", "--storage", "sqlite:///here.db")
    assert result.exit_code == 0 and made_up == [("sqlite:///here.db", 1000, 30, True)]
    head, _, *rows = result.stdout.splitlines()
    assert head == (
        "sqlite 3.45.1: 1,710 trials of 28 parameters, written in 12 s; load average 0.5 before, 1.5 after"
    )
    assert rows == ROWS and "a study of 1,000 trials" in result.stderr


def test_json_is_one_document_and_the_page_comes_from_what_is_stored(
    made_up: list[Any], tmp_path: Path
) -> None:
    result = run("--json", "--out", str(tmp_path))
    assert result.exit_code == 0 and made_up == [(None, 100_000, 30, True)]
    assert json.loads(result.stdout) == MADE_UP
    assert json.loads((tmp_path / "store-sqlite.json").read_text()) == MADE_UP
    text = (tmp_path / "README.md").read_text()
    assert "\n".join(ROWS) in text
    assert "## sqlite 3.45.1: 1,710 trials of 28 parameters" in text
    assert "One study of 1,000 trials, one of a tenth and one of a hundredth" in text
    assert "took up to 0.8 GiB" in text and "load average 0.5 before and 1.5 after" in text


def test_a_page_holds_the_results_of_all_databases(tmp_path: Path) -> None:
    page.write(tmp_path, "store-sqlite", MADE_UP)
    page.write(tmp_path, "store-postgresql", {**MADE_UP, "database": "postgresql 16.2"})
    text = (tmp_path / "README.md").read_text()
    assert text.index("## postgresql 16.2") < text.index("## sqlite 3.45.1")
    assert "## HTTP" not in text  # which nobody ran


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--trials", "999"], "greater than or equal to 1000"),
        (["--repeats", "1"], "greater than or equal to 2"),
        (["--trials", "many"], "unable to parse string as an integer"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(options: list[str], says: str) -> None:
    result = run(*options)
    said = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == 2 and f"'{options[0]}'" in said and says in said


def test_a_database_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "prepare", lambda spec: SETTING)
    error = run("--trials", "1000", "--storage", "mongodb://here/there").exception
    assert isinstance(error, StoreError) and error.exit_code == 2 and "kind 'mongodb'" in str(error)
