"""When a search stops by itself: on a flat one, not while it climbs, and never too early."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from autotc._outcomes import FLOATS, Outcomes
from autotc.metrics import OBJECTIVES, parse_objectives
from autotc.pareto import hypervolume, non_dominated
from autotc.search import _loop
from autotc.search.plateau import EVERY, LEAST, Gain, Plateau, halves
from autotc.search.spec import MOST_TRIALS, SearchSpec
from autotc.store import Store
from tests.fakes import FakeEvaluator
from tests.search.test_study import go, using

N = 256
OBJECTIVES_UP = (True, False)
IMAGES = np.repeat(np.arange(N // 2), 2).astype(str)


def outcomes(right: np.ndarray, group: np.ndarray | None = None) -> Outcomes:
    n = len(right)
    columns = dict.fromkeys(FLOATS, np.full(n, np.nan)) | {"correct": right.astype(float), "full": np.ones(n)}
    names = np.full(n, "all") if group is None else group
    return Outcomes("search", "fake", "accuracy", id=np.arange(n).astype(str), image=IMAGES[:n], group=names,
                    answer=np.full(n, ""), **columns)  # fmt: skip


def made(best: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return costs, true qualities and answers of trials; `best` is what each reaches or stays below."""
    rng = np.random.default_rng(seed)
    costs = (np.arange(len(best)) * 0.618034 + rng.random()) % 1 + 0.2
    true = best + 0.1 * costs - np.where(np.arange(len(best)) % 4, rng.exponential(0.05, len(best)), 0.0)
    difficulty = 0.6 * rng.random(N) + 0.4 * rng.random((len(best), N))
    right = difficulty < np.quantile(difficulty, true)[:, None]
    return costs, true, right


def searched(best: np.ndarray, seed: int, starts: int = 10) -> Plateau:
    plateau = Plateau(starts=starts, seed=seed)
    for place, (cost, _, right) in enumerate(zip(*made(best, seed), strict=True), 1):
        plateau.add(place, outcomes(right), (right.mean(), cost))
    return plateau


def areas(costs: np.ndarray, figures: np.ndarray, picking: np.ndarray) -> float:
    front = non_dominated(np.column_stack([picking, costs]), OBJECTIVES_UP)
    return hypervolume(np.column_stack([figures, costs])[front], (0.0, 1.2), OBJECTIVES_UP)


def stop(plateau: Plateau, trials: int) -> int:
    """The trial at which the rule stops a search, 0 where it does not."""
    return next((t for t in range(1, trials + 1) if plateau.reached(t) is not None), 0)


def test_it_stops_soon_where_nothing_better_is_found() -> None:
    stops = [stop(searched(np.full(150, 0.55), seed), 150) for seed in range(5)]
    assert all(s == 0 or s >= LEAST + EVERY for s in stops)
    assert sum(0 < s <= 100 for s in stops) == 5


def test_it_goes_on_while_the_climb_is_real() -> None:
    climb = 0.35 + 0.25 * np.arange(100) / 100
    assert [stop(searched(climb, seed), 100) for seed in range(5)] == [0] * 5


def test_it_stops_once_the_climb_is_over() -> None:
    climb = np.minimum(0.35 + 0.25 * np.arange(180) / 50, 0.6)
    stops = [stop(searched(climb, seed), 180) for seed in range(4)]
    assert all(s == 0 or s > 85 for s in stops)  # the last half has to be free of it
    assert sum(s > 0 for s in stops) >= 3


def test_nothing_is_judged_before_enough_trials_and_all_starting_points() -> None:
    flat = searched(np.full(120, 0.55), 1)
    assert flat.gain(LEAST - 1) is None and flat.gain(LEAST) is not None
    many = searched(np.full(120, 0.55), 1, starts=45)
    assert many.gain(88) is None and many.gain(90) is not None
    assert all(
        stop(searched(np.full(120, 0.55), s, starts=45), 120) in (0, *range(95, 121)) for s in range(4)
    )


@pytest.mark.parametrize("step", [0.0, 0.15])
def test_the_gain_is_what_the_last_half_really_brought(step: float) -> None:
    best = np.where(np.arange(80) < 40, 0.5, 0.5 + step)
    found, real, seeming = [], [], []
    for seed in range(16):
        gain = searched(best, seed).gain(80)
        assert gain is not None and (gain.trials, gain.window) == (80, 40)
        found.append(gain)
        costs, true, right = made(best, seed)
        seen = right.mean(axis=1)
        for figures, into in ((true, real), (seen, seeming)):
            now, before = areas(costs, figures, seen), areas(costs[:40], figures[:40], seen[:40])
            into.append((now - before) / now)
    error = np.std([g.value for g in found], ddof=1) / 4
    assert np.mean([g.value for g in found]) == pytest.approx(np.mean(real), abs=3 * error)
    # and the standard error is that of the estimate from one data set to the next
    spread = np.std([g.value - r for g, r in zip(found, real, strict=True)], ddof=1)
    assert 0.5 < np.mean([g.stderr for g in found]) / spread < 2.0


def test_a_front_that_only_creeps_up_on_its_own_examples_gains_nothing() -> None:
    found, seeming = [], []
    for seed in range(12):
        rng, plateau = np.random.default_rng(seed), Plateau()
        costs = np.tile(np.arange(1.0, 9.0) / 8, 10)
        right = rng.random((80, N)) < (0.4 + 0.3 * costs)[:, None]  # the same ten times over
        seen = right.mean(axis=1)
        for place in range(80):
            plateau.add(place + 1, outcomes(right[place]), (seen[place], costs[place]))
        gain = plateau.gain(80)
        assert gain is not None
        found.append(gain.value)
        now, before = areas(costs, seen, seen), areas(costs[:40], seen[:40], seen[:40])
        seeming.append((now - before) / now)
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert np.mean(seeming) > 0.01
    assert np.mean(found) < 0.3 * np.mean(seeming) and abs(np.mean(found)) < 3 * error


def test_where_the_front_did_not_move_the_gain_is_nothing() -> None:
    plateau = Plateau()
    for place in range(1, 81):
        right = np.arange(N) < (200 if place == 1 else 100)
        plateau.add(place, outcomes(right), (right.mean(), 1.0 if place == 1 else 2.0))
    found = plateau.gain(80)
    assert found is not None and (found.value, found.stderr, found.over) == (0.0, 0.0, True)


def test_halves_split_images_and_not_their_examples() -> None:
    masks = halves(IMAGES, 5, 0)
    assert masks.shape == (10, N)
    assert (masks[0::2] ^ masks[1::2]).all()
    assert (masks.reshape(10, -1, 2).sum(axis=2) % 2 == 0).all()
    assert (masks.sum(axis=1) == N // 2).all()


@pytest.mark.parametrize(
    "names", [("worst_group", "kv_gib"), ("quality", "worst_group_drop", "tflops_exact", "kv_gib")]
)
def test_other_objectives_have_gains_too(names: tuple[str, ...]) -> None:
    aims = parse_objectives(names)
    group = np.where(np.arange(N) % 3, "read", "count")
    plateau, rng = Plateau(aims), np.random.default_rng(0)
    for place in range(1, 81):
        right = rng.random(N) < (0.5 if place < 60 else 0.8)
        figures = [0.5 for m in aims if not m.on_cost]  # taken anew on each half
        plateau.add(place, outcomes(right, group), (*figures, *rng.random(len(aims) - len(figures))))
    found = plateau.gain(80)
    assert found is not None and found.value > 2 * found.stderr > 0
    assert ("volume" if len(aims) > 2 else "area") in found.text


def test_the_reason_is_one_sentence() -> None:
    assert Gain(75, 37, 0.0012, 0.0043).text == (
        "Stopped after 75 trials: the last 37 raised the area under the front by 0.1 % ± 0.4 % (one standard error, on "
        "examples that did not pick it), and more are expected to bring no more than that"
    )


def test_a_study_stops_says_why_and_does_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_loop, "Plateau", partial(Plateau, least=20))
    store = Store(f"sqlite:///{tmp_path}/autotc.db")
    # after the presets nothing better can be found: every policy answers alike
    flat = using(Flat())
    asked = {"until": "plateau", "trials": 150, "sampler": "random"}
    result = go(store, flat, **asked)
    assert result.state == "finished" and 20 + EVERY <= result.trials < 150
    assert result.plateau is not None and result.plateau.over and not result.exhausted
    assert result.as_dict()["plateau"]["text"] == result.plateau.text
    assert result.next[0] == f"search on: the same command with --until trials --trials {2 * result.trials}"
    again = go(store, flat, **asked)
    assert (again.ran, again.trials, again.plateau) == (0, result.trials, result.plateau)
    # without the option the same study goes on
    more = go(store, flat, trials=result.trials + 2, sampler="random")
    assert (more.ran, more.plateau) == (2, None)


class Flat(FakeEvaluator):
    """Every policy is as good as every other one."""

    def evaluate(self, policy, split, n, *, start=0):  # type: ignore[no-untyped-def]
        found = super().evaluate(None, split, n, start=start)
        found.trace.extend({"asked": 1.0, "kept": 1.0} for _ in (policy.stages if policy else ()))
        return found


def test_the_option_has_a_limit_of_its_own_and_makes_no_other_study() -> None:
    spec = SearchSpec.from_options({"model": "m", "until": "plateau"})
    assert spec.trials == MOST_TRIALS
    assert SearchSpec.from_options({"model": "m", "until": "plateau", "trials": 70}).trials == 70
    plain = SearchSpec.from_options({"model": "m"})
    workload = spec.parsed_workload()
    assert spec.study_name("0" * 16) == plain.study_name("0" * 16)
    assert SearchSpec.from_document(spec.document(workload)).until == "plateau"
    assert plain.all_objectives() == OBJECTIVES
