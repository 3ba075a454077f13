"""Strategies by name in whole studies: stored, stopped, gone on with; the default is that of the test-bed."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotc.errors import SpecError
from autotc.running import print_result
from autotc.search._inverse import encode
from autotc.search.setting import Setting
from autotc.search.spec import PUBLISHED, RIVALS, SearchSpec
from autotc.search.strategies import NAMES, Seen, make
from autotc.search.strategies.default import DRAWN
from autotc.search.study import Study
from autotc.store import Store, TrialRow
from tests.fakes import FULL, PROXY, accept, fake_evaluator
from tests.search.points import REDUCERS
from tests.testbed.beds import VQA

SETTING = Setting(FULL, PROXY, "fake", VQA, fake_evaluator, check=accept)
LIVE = tuple(n for n in (*RIVALS, *PUBLISHED) if n != "gp")  # nothing but time sets it apart from tpe


def spec(strategy: str, trials: int, **more: object) -> SearchSpec:
    options = {
        "model": "qwen2.5-vl",
        "max_tflops": 800,
        "examples": 128,
        "selection_examples": 32,
        "heldout_examples": 32,
        "reducers": (*REDUCERS, "fitprune", "vflowopt"),
        "trials": trials,
        "strategy": strategy,
        **more,
    }
    return SearchSpec.model_validate(options)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/autotc.db")


def trials(store: Store, study: Study) -> list[TrialRow]:
    return sorted(store.trials(study.name, role="trial"), key=lambda row: row.number or 0)


@pytest.mark.parametrize("name", LIVE)
def test_a_study_with_each_strategy(store: Store, name: str) -> None:
    study = Study(spec(name, 9), store, SETTING)
    result = study.run()
    rows = trials(store, study)
    assert result.state == "finished" and result.front
    assert len(rows) == (2 if name == "vtw" else 9)
    assert all(row.state == "complete" for row in rows)  # nothing over the limit
    if name in PUBLISHED:  # every trial on all examples
        assert all((row.number_of("quality", "search") or pytest.fail("none")).n == 128 for row in rows)


def test_a_strategy_that_has_nothing_more_to_try_says_so(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    done = Study(spec("vtw", 9), store, SETTING).run()
    for result in (done, Study(spec("vtw", 9), store, SETTING).run()):  # also when asked again
        assert result.exhausted and result.state == "finished" and result.as_dict()["exhausted"] is True
        assert "vtw has nothing more to try after 2 trials; --trials asked for 9." in result.notes
        assert not any("same command" in line for line in result.next)
    print_result(done, store.url, profile=False)
    printed = capsys.readouterr().out
    assert "Nothing more to try: 2 of 9 trials" in printed and "vtw has nothing more to try" in printed
    enough = Study(spec("vtw", 2), store, SETTING).run()
    assert not enough.exhausted and enough.as_dict()["exhausted"] is False


@pytest.mark.parametrize("name", ["default", "nsga2", "evolution", "greedy", "sobol", "p-sigmoid"])
def test_a_study_that_goes_on_proposes_what_it_would_have(tmp_path: Path, name: str) -> None:
    found: list[list[str]] = []
    for steps in ((20,), (7, 20)):
        store = Store(f"sqlite:///{tmp_path}/{name}-{len(steps)}.db")
        for total in steps:
            study = Study(spec(name, total), store, SETTING)
            study.run()
        found.append([row.policy.id for row in trials(store, study)])
    assert found[0] == found[1] and len(found[0]) == 20


def test_the_default_of_the_test_bed_is_the_default_of_a_study(store: Store) -> None:
    """The same points in the same order after the same results: so the bench measures what users run."""
    study = Study(spec("default", 24, examples=32), store, SETTING)
    study.run()
    history: list[Seen] = []
    chooser = make("default", study.space, 0)
    rows = trials(store, study)
    references = [row.policy for row in store.trials(study.name, role="reference", state="complete")]
    starts = [p for policy in references if (p := encode(study.space, policy)) is not None]
    for number, row in enumerate(rows):
        start = starts[number] if number < len(starts) else None
        now = chooser.propose(history, number, start)
        assert now is not None and dict(now.params) == row.params
        quality = row.number_of("quality", "search")
        assert quality is not None
        history.append(Seen(number, now, quality.value, row.costs["tflops_exact"], row.violations))
    assert len(rows) == 24 and len(starts) + DRAWN < 20  # the others come from what was learnt


def test_what_does_not_go_together_is_refused_before_anything_runs(store: Store) -> None:
    with pytest.raises(SpecError, match="--strategy sobol brings its own way to propose"):
        spec("sobol", 5, sampler="gp")
    with pytest.raises(SpecError, match="--workers: 2, but --strategy evolution decides by the trial before"):
        spec("evolution", 5, workers=2)
    with pytest.raises(SpecError, match=r"--strategy vflowopt: .* leaves out"):
        Study(spec("vflowopt", 5, reducers=REDUCERS), store, SETTING)
    assert spec("default", 5, sampler="gp", workers=2).sampler == "gp"
    assert spec("plain", 5).from_presets is False
    assert set(NAMES) == {"default", *RIVALS, *PUBLISHED}
