"""The lattice, the runner that fills the file, and what lies between."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotc.cost import estimate
from autotc.errors import SpecError
from autotc.leaderboard import SHARES
from autotc.testbed import lattice, measure
from autotc.testbed.bed import Bed
from autotc.testbed.lattice import PRESET, sample_lattice
from autotc.testbed.measure import DONE, EMPTY, FAILED, Measured
from tests.testbed.beds import EXAMPLES, Evaluator, answered, bed, chances, measured, points, space

FEW = points()[:6]
POLICIES = [p.policy for p in FEW]


def fill(path: Path, evaluator: Evaluator, examples: int = 256) -> Measured:
    return measure.measure(POLICIES, evaluator, space().to_evaluated, "task", "fake", path, examples)


# --- the lattice ---


def test_the_lattice_is_fixed_and_a_smaller_one_is_its_beginning() -> None:
    again = sample_lattice(space(), 40, 3, [p for p in points() if p.kind == PRESET])
    assert [p.policy.id for p in again] == [p.policy.id for p in points()[: len(again)]]
    other = [p.policy for p in sample_lattice(space(), 40, 4, [])]
    several = {
        p.id for p in other if p.stages[-1].keep
    }  # there are two depths to withdraw at, which any seed meets
    assert len(several) > 30 and not several & {p.policy.id for p in points()}


def test_the_lattice_is_spread_and_within_the_limit() -> None:
    drawn = [p for p in points() if p.kind != PRESET]
    costs = np.array([estimate(p.policy, space().full, space().workload).get("literature") for p in drawn])
    assert (costs <= 800 * (1 + 1e-9)).all()
    least = lattice.LOW * lattice.budget(space().full, space().workload, SHARES[-1], "literature")
    quarters = np.histogram(np.log(costs), np.linspace(np.log(least * 0.99), np.log(801), 5))[0]
    assert quarters.min() >= 25  # 37 each, were it exact
    towers = Counter(sum(s.site == "vision" for s in p.policy.stages) for p in drawn)
    assert min(towers[k] for k in range(4)) >= 5
    used = Counter(s.reducer for p in drawn for s in p.policy.stages)
    assert {n for names in space().choices.values() for n in names} <= set(used)
    assert len({p.kind for p in drawn}) >= 6
    assert len({bed().identity(p.policy) for p in points()}) == len(points())


def test_the_file_of_policies_gives_them_back(tmp_path: Path) -> None:
    path = tmp_path / "policies.json"
    lattice.write(path, space(), points(), 3)
    assert lattice.read(path, space()) == list(points())
    path.write_text(path.read_text().replace("Qwen2.5-VL-7B", "Qwen2.5-VL-3B"))
    with pytest.raises(SpecError, match=r"not for Qwen/Qwen2.5-VL-7B-Instruct.*delete it"):
        lattice.read(path, space())


def test_a_file_of_policies_grows_and_never_shrinks(tmp_path: Path) -> None:
    path, recipes = tmp_path / "policies.json", [p for p in points() if p.kind == PRESET]
    few = lattice.grow(path, space(), 20, 3, recipes=recipes)
    assert lattice.grow(path, space(), 20, 3) == few == lattice.read(path, space())
    more = lattice.grow(path, space(), 35, 3)
    assert more == sample_lattice(space(), 35, 3, recipes) == lattice.read(path, space())
    assert more[: len(few)] == few and len(more) == len(few) + 15
    before = path.read_bytes()
    with pytest.raises(SpecError, match=r"--policies: 20, but .* holds 35 drawn ones. Ask for 35 or more"):
        lattice.grow(path, space(), 20, 3)
    with pytest.raises(SpecError, match=r"--seed: 4, but .* was drawn with 3. Ask for that one"):
        lattice.grow(path, space(), 40, 4)
    assert path.read_bytes() == before


# --- the runner ---


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole.npz", Evaluator())
    stopping = Evaluator()
    run = stopping.evaluate

    def stop(*args: object, **kwargs: object) -> object:
        if stopping.calls == 2 + 8:  # two for the uncompressed model, eight of twelve blocks
            raise KeyboardInterrupt
        return run(*args, **kwargs)  # type: ignore[arg-type]

    stopping.evaluate = stop  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "part.npz", stopping)
    there = Measured.read(tmp_path / "part.npz")
    assert (there.state == DONE).sum(0).tolist() == [
        6,
        2,
    ]  # all policies on the first block before the second
    going_on = Evaluator()
    fill(tmp_path / "part.npz", going_on)
    assert going_on.calls == 4
    done = Measured.read(tmp_path / "part.npz")
    for name in ("correct", "state", "kept", "image", "full", "blind"):
        np.testing.assert_array_equal(
            getattr(done, name), getattr(Measured.read(tmp_path / "whole.npz"), name), name
        )
    np.testing.assert_array_equal(whole.correct, [answered(p)[:256] for p in POLICIES])
    assert whole.image.tolist() == [i // 2 for i in range(256)]


def test_more_examples_keep_those_that_are_there(tmp_path: Path) -> None:
    fill(tmp_path / "bed.npz", Evaluator(), 128)
    more = Evaluator()
    found = fill(tmp_path / "bed.npz", more, 256)
    assert more.calls == 2 + len(POLICIES)
    np.testing.assert_array_equal(found.correct, [answered(p)[:256] for p in POLICIES])


def test_more_policies_keep_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "bed.npz"
    measure.measure(POLICIES[:4], Evaluator(), space().to_evaluated, "task", "fake", path, 256)
    old = Measured.read(path)
    assert old.begins(POLICIES) and not old.begins(POLICIES[::-1]) and not old.begins(POLICIES[:3])
    more = Evaluator()
    fill(path, more, 256)
    assert more.calls == 4  # two policies on two blocks; the uncompressed model is known
    fill(tmp_path / "whole.npz", Evaluator(), 256)
    found, whole = Measured.read(path), Measured.read(tmp_path / "whole.npz")
    for name in ("policies", "correct", "state", "kept", "image", "full", "blind"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), name)
    both = fill(path, Evaluator(), 512)
    np.testing.assert_array_equal(both.correct, [answered(p) for p in POLICIES])


def test_policies_that_were_added_and_not_run_yet_are_said(tmp_path: Path) -> None:
    rows = slice(0, 120)
    part = measured()
    part = replace(part, correct=part.correct[rows], state=part.state[rows], kept=part.kept[rows])
    found = Bed(space(), points(), part)
    assert not found.complete and len(found.policies) == 120
    assert found.status.startswith(f"INCOMPLETE: 120 of {len(points())} policies on 512 of 512")


def test_what_was_really_kept_is_stored_and_charged(tmp_path: Path) -> None:
    found = fill(tmp_path / "bed.npz", Evaluator(), 128)  # the fake keeps half of what was asked
    for policy, kept in zip(POLICIES, found.kept, strict=True):
        expected = [s.keep * (1.0 if s.site == "input" else 0.5) for s in policy.stages]
        assert kept[: len(expected)].tolist() == pytest.approx(expected)
        assert np.isnan(kept[len(expected) :]).all()


def test_a_policy_that_cannot_run_is_left_out_and_counted(tmp_path: Path) -> None:
    class Broken(Evaluator):
        def evaluate(self, policy, split, n, *, start=0):  # type: ignore[no-untyped-def]
            if policy is not None and policy.stages == space().to_evaluated(POLICIES[2]).stages:
                raise RuntimeError("no")
            return super().evaluate(policy, split, n, start=start)

    found = fill(tmp_path / "bed.npz", Broken(), 128)
    assert found.state[:, 0].tolist() == [DONE, DONE, FAILED, DONE, DONE, DONE]
    state = measured().state.copy()
    state[7, 1] = FAILED
    left = Bed(space(), points(), replace(measured(), state=state))
    assert len(left.policies) == len(points()) - 1
    assert left.complete and "1 policies could not be run" in left.status


def test_wrong_files_and_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--examples: 200 is not a multiple of 128"):
        fill(tmp_path / "bed.npz", Evaluator(), 200)
    with pytest.raises(SpecError, match="has only 512"):
        fill(tmp_path / "bed.npz", Evaluator(), 640)
    fill(tmp_path / "bed.npz", Evaluator(), 128)
    with pytest.raises(SpecError, match="holds other policies"):
        measure.measure(
            POLICIES[:3], Evaluator(), space().to_evaluated, "task", "fake", tmp_path / "bed.npz", 128
        )
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(SpecError, match="not the outcomes of a test-bed"):
        fill(tmp_path / "text.npz", Evaluator())


def test_two_thousand_policies_take_little_room(tmp_path: Path) -> None:
    small = measured()
    rng = np.random.default_rng(0)
    correct = rng.random((2000, 512)) < 0.7  # noise is the worst that can be asked of a compression
    kept = np.repeat(small.kept, 20, axis=0)[:2000]
    large = replace(small, correct=correct, kept=kept, state=np.full((2000, 4), DONE, np.uint8))
    large.write(tmp_path / "bed.npz")
    assert (tmp_path / "bed.npz").stat().st_size < 250_000
    np.testing.assert_array_equal(Measured.read(tmp_path / "bed.npz").correct, correct)


# --- the test-bed ---


def test_an_incomplete_test_bed_says_so_and_uses_what_is_whole() -> None:
    state = measured().state.copy()
    state[100:, 2] = EMPTY
    state[:, 3] = EMPTY
    part = Bed(space(), points(), replace(measured(), state=state))
    assert len(part.full) == 256 and len(part.policies) == len(points())
    assert part.status.startswith(f"INCOMPLETE: {len(points())} of {len(points())} policies on 256 of 512")
    state[100:, 0] = EMPTY  # as where policies were added: what is there stays on all of its examples
    first = Bed(space(), points(), replace(measured(), state=state))
    assert (len(first.full), len(first.policies), first.complete) == (384, 100, False)
    state[:100, 1:] = EMPTY
    one = Bed(space(), points(), replace(measured(), state=state))
    assert (len(one.full), len(one.policies), one.complete) == (128, 100, False)
    state[20:] = EMPTY
    with pytest.raises(SpecError, match=r"20 measured policies, at least 40.*autotc bench testbed"):
        Bed(space(), points(), replace(measured(), state=state))


def test_images_are_not_split_among_parts() -> None:
    parts = bed().parts
    assert {name: len(index) for name, index in parts.items()} == {
        "search": 256,
        "selection": 128,
        "held-out": 128,
    }
    images = [set(bed().image[index]) for index in parts.values()]
    assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]


def test_a_measured_policy_answers_as_it_did() -> None:
    for i in (0, 30, 161):
        found = bed().answers(points()[i].policy)
        np.testing.assert_array_equal(found.correct, answered(points()[i].policy))
        assert found.distance == 0 and found.cost == bed().costs[i]


def test_what_lies_between_is_predicted() -> None:
    """Against the truth, which the surrogate never sees: 60 policies that are not on the lattice."""
    fresh = [p.policy for p in sample_lattice(space(), 60, 99, [])]
    truth = np.array([chances(p).mean() for p in fresh])
    drawn = [bed().answers(p) for p in fresh]
    costs = np.array([a.cost for a in drawn])
    predicted = np.array([bed().surrogate.chances(p, c)[0].mean() for p, c in zip(fresh, costs, strict=True)])
    errors = predicted - truth
    spread = bed().surrogate.agreement.offset
    assert np.corrcoef(predicted, truth)[0, 1] > 0.9
    assert 0.5 * spread < errors.std() < 2 * spread  # what it says of its own error is right
    answers = np.array([a.correct for a in drawn])
    assert np.corrcoef(answers.mean(0), chances(None))[0, 1] > 0.7  # hard examples stay hard
    distances = [a.distance for a in drawn]
    assert 0.5 < np.median(distances) < 2 and sum(d == 0 for d in distances) < 5  # a few fall on the lattice
    np.testing.assert_array_equal(bed().answers(fresh[0]).correct, answers[0])


def test_a_policy_far_from_the_lattice_says_so() -> None:
    whole = next(
        p.policy for p in points() if p.kind == "projector" and p.policy.stages[0].reducer == "vflowopt"
    )
    keep = whole.stages[0].keep

    def moved(share: float, **params: object) -> float:
        stage = whole.stages[0].model_copy(update={"keep": round(keep * share, 6), "params": params})
        return bed().answers(whole.model_copy(update={"stages": (stage,)})).distance

    assert bed().answers(whole).distance == 0
    assert 0 < moved(0.95) < moved(0.7) < moved(0.1)
    assert moved(0.95) < 0.5
    assert moved(0.95, cell=7.5) > moved(0.95)


def test_leaving_one_out_is_what_the_closed_form_says() -> None:
    small = bed().surrogate
    i = 17
    keep = np.arange(len(points())) != i
    kernel = small._kernel(small._there)
    target = small._target
    noise = small._noise * np.eye(keep.sum())
    by_hand = kernel[i, keep] @ np.linalg.solve(kernel[np.ix_(keep, keep)] + noise, target[keep])
    closed = target[i] - (small._inverse @ target)[i] / small._inverse[i, i]
    assert closed == pytest.approx(by_hand, abs=1e-8)
    assert len(small._center) == EXAMPLES
