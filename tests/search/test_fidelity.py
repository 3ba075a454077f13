"""A search on the model that looks at proposals through the proxy first: what runs, is stored, and counts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from autotc._outcomes import Outcomes
from autotc.anchors import Line
from autotc.cost import estimate
from autotc.errors import PolicyError
from autotc.policy import Policy
from autotc.search import _fidelity
from autotc.search._fidelity import Screen, Screening, proposals, told
from autotc.search._ledger import Ledger
from autotc.search.result import Result
from autotc.search.setting import Setting
from autotc.search.space import Space
from autotc.search.spec import SearchSpec
from autotc.search.study import Study, open_ledger
from autotc.store import Store, TrialRow
from autotc.workload import PROFILES
from tests.fakes import FULL, PROXY, FakeEvaluator, accept
from tests.search.points import REDUCERS

VQA = PROFILES["vqa"]
SPEC = SearchSpec(
    model="qwen2.5-vl",
    max_tflops=800,
    trials=30,
    examples=128,
    selection_examples=32,
    heldout_examples=48,
    reducers=REDUCERS,
    evaluate_on="full",
    sampler="tpe",  # proposes enough poor policies to screen some
)
# the fake model and the fake proxy score alike: an honest calibration of the two has slope 1 and a small spread
SHARP = Line(slope=1.0, intercept=0.0, sd=0.02, mean=-0.3, spread=0.5, n=20)
VAGUE = replace(SHARP, sd=5.0)


class NamedFake(FakeEvaluator):
    """A fake whose outcomes carry the name of a model."""

    def __init__(self, on: str, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.on = on

    def evaluate(self, policy: Policy | None, split: str, n: int, *, start: int = 0) -> Outcomes:
        return replace(super().evaluate(policy, split, n, start=start), on=self.on)


def screened_setting(line: Line, model: NamedFake, proxy: NamedFake) -> Setting:
    screen = Screen(PROXY, "proxy:fake", "model", lambda processes: proxy, line)
    return Setting(FULL, FULL, "model", VQA, lambda workers: model, check=accept, screen=screen)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/autotc.db")


def go(store: Store, setting: Setting, **changes: object) -> Result:
    return Study(SPEC.model_copy(update=changes), store, setting).run()


def rows_of(store: Store, result: Result) -> list[TrialRow]:
    return store.trials(result.study, role="trial")


Run = tuple[Store, Result, NamedFake, NamedFake]


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('screened')}/autotc.db")
    model, proxy = NamedFake("model"), NamedFake("proxy:fake")
    return store, go(store, screened_setting(SHARP, model, proxy)), model, proxy


def test_what_cannot_reach_the_front_is_not_run_on_the_model(screened: Run) -> None:
    store, result, model, proxy = screened
    out = [r for r in rows_of(store, result) if r.state == "screened"]
    assert result.state == "finished" and result.trials == 30 and 3 <= len(out) < 30
    ran = {policy for policy, _, _, _ in model.calls}
    looked = {policy for policy, _, _, _ in proxy.calls}
    for row in out:
        assert row.policy.id not in ran
        assert row.policy.for_model(PROXY).id in looked
    assert {(split, n) for _, split, n, _ in proxy.calls} == {("search", 256)}
    assert any(f"{len(out)} of 30 proposals were screened out on the proxy" in note for note in result.notes)


def test_a_screened_trial_is_stored_with_the_proxys_figure_and_its_reason(screened: Run) -> None:
    store, result, _, _ = screened
    rows = rows_of(store, result)
    by_number = {r.number: r for r in rows}
    reference = next(r for r in store.trials(result.study, role="reference") if not r.policy.stages)
    full = reference.number_of("quality", "search")
    assert full is not None
    for row in (r for r in rows if r.state == "screened"):
        assert row.number_of("quality") is None and row.trace == [] and row.reason is not None
        assert len(store.outcomes(row.id, "search")["id"]) == 0
        (proxy,) = (n for n in row.numbers if n.name == "proxy_quality")
        (predicted,) = (n for n in row.numbers if n.name == "predicted_quality")
        assert (proxy.on, proxy.kind, proxy.n) == ("proxy:fake", "measured", 256) and proxy.stderr
        assert (predicted.on, predicted.kind, predicted.split) == ("model", "estimated", "search")
        seen = NamedFake("proxy:fake").evaluate(row.policy.for_model(PROXY), "search", 256)
        loss = float((seen.correct - seen.full).mean())
        assert proxy.value == pytest.approx(seen.correct.mean())
        assert predicted.value == pytest.approx(full.value + loss)
        assert predicted.stderr == pytest.approx(SHARP.predict(loss)[1])
        assert row.reason.startswith("screened out: ") and "which costs no more" in row.reason
        # the trial it is held against was really better than it could be, and costs no more
        rival = by_number[int(row.reason.partition("where trial ")[2].partition(",")[0])]
        better = rival.number_of("quality", "search")
        assert better is not None and rival.state == "complete"
        assert rival.costs["tflops_exact"] <= row.costs["tflops_exact"]
        assert better.value > predicted.value + SHARP.bound() * (predicted.stderr or 0.0)


def test_front_references_and_claims_rest_on_the_model(screened: Run) -> None:
    store, result, _, _ = screened
    out = {r.number for r in rows_of(store, result) if r.state == "screened"}
    assert result.front and result.claims
    for m in (*result.front, *result.references):
        assert m.trial not in out
        measured = [n for n in m.numbers if n.name == "quality"]
        assert measured and {n.on for n in measured} == {"model"}
    # a trial that passed carries both, under two names
    passed = [r for r in rows_of(store, result) if any(n.name == "proxy_quality" for n in r.numbers)]
    passed = [r for r in passed if r.state == "complete"]
    assert passed and all(r.number_of("quality", "search").on == "model" for r in passed)  # type: ignore[union-attr]


def test_the_sampler_learns_the_low_end_and_no_violation(screened: Run) -> None:
    store, result, _, _ = screened
    ledger = open_ledger(store, result.study, SPEC)
    trials = {t.number: t for t in ledger.study.get_trials()}
    ledger.close()
    for row in rows_of(store, result):
        trial = trials[row.number or 0]
        assert trial.state.name == "COMPLETE"
        if row.state == "screened":
            low = told(row.numbers, SHARP)
            assert low is not None and trial.values == pytest.approx([low, row.costs["tflops_exact"]])
            (predicted,) = (n for n in row.numbers if n.name == "predicted_quality")
            assert 0 <= low < predicted.value
            assert all(v <= 0 for v in trial.constraints.values())


def test_the_front_is_nearly_that_of_a_search_without_a_proxy(screened: Run, tmp_path: Path) -> None:
    _, result, model, _ = screened
    plain = NamedFake("model")
    other = Store(f"sqlite:///{tmp_path}/plain.db")
    without = go(other, replace(screened_setting(SHARP, plain, NamedFake("-")), screen=None))

    def best(found: Result) -> float:
        return max(m.value("quality", "selection") for m in found.front)

    def searched(evaluator: NamedFake) -> int:
        return sum(n for _, split, n, _ in evaluator.calls if split == "search")

    assert searched(model) < 0.95 * searched(plain)
    assert best(result) >= best(without) - 0.04
    assert all(r.state == "complete" for r in rows_of(other, without))


def test_a_vague_calibration_screens_nothing(store: Store) -> None:
    model, proxy = NamedFake("model"), NamedFake("proxy:fake")
    result = go(store, screened_setting(VAGUE, model, proxy), trials=16)
    assert {r.state for r in rows_of(store, result)} == {"complete"}
    assert proxy.calls and not any("screened out" in note for note in result.notes)


def test_what_the_proxy_cannot_run_runs_on_the_model() -> None:
    def refuse(policy: Policy | None, split: str) -> None:
        raise PolicyError("stages: two stages fall on the same layer")

    screen = Screen(PROXY, "proxy:fake", "model", lambda p: NamedFake("p", trouble=refuse), SHARP)
    space = Space(FULL, FULL, VQA, 800, reducers=REDUCERS, check=accept)
    policy = proposals(space, 700, 1, 0)[0]
    assert Screening(screen, 1).look(policy, 0.9) is None


def test_a_screened_trial_that_was_not_told_is_told_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = screened_setting(SHARP, NamedFake("model"), NamedFake("proxy:fake"))
    tell = Ledger.tell

    def killed(self: Ledger, trial: object, *args: object) -> None:
        if any(r.state == "screened" and r.number == trial.number for r in store.trials("s", role="trial")):  # type: ignore[attr-defined]
            raise SystemExit(9)
        tell(self, trial, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Ledger, "tell", killed)
    with pytest.raises(SystemExit):
        go(store, setting, study="s")
    monkeypatch.undo()
    (row,) = store.trials("s", role="trial", state="screened")
    go(store, setting, study="s")
    ledger = open_ledger(store, "s", SPEC)
    assert ledger.study.get_trials()[row.number or 0].values[0] == pytest.approx(told(row.numbers, SHARP))
    ledger.close()


def model_evaluator(workers: int) -> NamedFake:
    return NamedFake("model", delay_s=0.03)


def proxy_evaluator(workers: int) -> NamedFake:
    return NamedFake("proxy:fake")


def test_workers_screen_as_well(store: Store) -> None:
    screen = Screen(PROXY, "proxy:fake", "model", proxy_evaluator, SHARP)
    setting = Setting(FULL, FULL, "model", VQA, model_evaluator, check=accept, screen=screen)
    result = go(store, setting, workers=2)
    states = [r.state for r in rows_of(store, result)]
    assert len(states) == 30 and set(states) == {"complete", "screened"}


# --- proposals ---


def test_proposals_are_different_fit_and_spend_their_budget() -> None:
    space = Space(FULL, PROXY, VQA, None, "exact", REDUCERS, accept)
    found = proposals(space, 6000.0, 12, 3)
    assert len({p.id for p in found}) == 12 and all(space.fits(p) for p in found)
    costs = np.array([estimate(p, FULL, VQA).tflops_exact for p in found])
    assert (costs <= 6000).all() and np.median(costs) > 5700
    assert len({tuple(s.site for s in p.stages) for p in found}) >= 4
    assert [p.id for p in proposals(space, 6000.0, 12, 3)] == [p.id for p in found]
    assert [p.id for p in proposals(space, 6000.0, 12, 4)] != [p.id for p in found]


def test_a_screen_travels_to_worker_processes() -> None:
    import pickle

    screen = Screen(PROXY, "proxy:fake", "model", partial(model_evaluator), SHARP)
    again = pickle.loads(pickle.dumps(screen))
    assert again.line == SHARP and again.evaluator(1).on == "model"
    assert _fidelity.told([], SHARP) is None
