"""Transfer between proxies: policies of equal cost for all, rank statistics, depth mapping, resumable outcomes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from autotc import transfer
from autotc.adapter import anatomy
from autotc.anatomy import Anatomy
from autotc.apply import check
from autotc.cost import estimate
from autotc.errors import SpecError
from autotc.policy import map_depth
from autotc.proxies import llava, model, train
from autotc.proxies.runner import Options
from autotc.tasks.scenes import Scenes
from autotc.transfer import command, depth, measure, page, ranks, study
from autotc.transfer.depth import Depths
from autotc.transfer.sample import LEAST_COST, SHARES, budget_of, sample_policies
from autotc.workload import parse_workload
from tests.test_leaderboard import FakeEvaluator

WORKLOAD = parse_workload("vqa")
STUDY = Path(__file__).parents[1] / "studies" / "transfer"


@pytest.fixture(scope="module")
def families():
    return command.families()


@pytest.fixture(scope="module")
def sampled(families):
    return sample_policies(families, WORKLOAD, 15, seed=3)


# --- the policies ---


def test_every_policy_costs_the_same_and_runs_in_every_family(sampled, families):
    assert len({s.policies["qwen2_5_vl"].id for s in sampled}) == 15
    assert sorted(s.share for s in sampled) == sorted([*SHARES] * 3)
    for s in sampled:
        assert {stage.reducer for stage in s.policies["llava"].stages} == {
            stage.reducer for stage in s.policies["qwen2_5_vl"].stages
        }
        for family in families:
            policy = s.policies[family.full.family]
            limit = budget_of(family, s.share, WORKLOAD)
            assert (
                LEAST_COST * limit
                <= estimate(policy, family.full, WORKLOAD).tflops_exact
                <= limit * (1 + 1e-9)
            )
            check(policy, family.full)
            for evaluated in family.evaluated:
                check(policy.for_model(evaluated), evaluated)


def test_the_draw_is_a_function_of_its_seed(sampled, families):
    again = sample_policies(families, WORKLOAD, 15, seed=3)
    assert [s.policies for s in again] == [s.policies for s in sampled]
    other = sample_policies(families, WORKLOAD, 15, seed=4)
    assert {s.policies["llava"].id for s in other} != {s.policies["llava"].id for s in sampled}
    with pytest.raises(ValueError, match="17 is not a multiple of 5"):
        sample_policies(families, WORKLOAD, 17)


# --- the statistics ---


def test_spearman_is_scipys():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 9, 60)
    b = a + rng.integers(0, 9, 60)  # with ties
    assert ranks.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert np.isnan(ranks.spearman(a, np.ones(60)))


def test_equal_cost_is_not_carried_by_the_budget():
    strata = np.repeat([0.1, 0.5], 20)
    inside = np.tile(np.arange(20.0), 2)
    a, b = 100 * strata + inside / 10, 100 * strata - inside / 10  # opposite within, alike across
    assert ranks.spearman(a, b) > 0.45
    assert ranks.within(strata)(a, b) == pytest.approx(-1)
    # A stratum of three policies says nothing.
    few = np.concatenate([strata, [0.9] * 3])
    assert ranks.within(few)(np.append(a, [1, 2, 3]), np.append(b, [1, 2, 3])) == pytest.approx(-1)


def _models(correlation: float, policies: int = 120, images: int = 150, seed: int = 0):
    """Two models whose true qualities correlate as asked, each right by chance; two questions an image."""
    rng = np.random.default_rng(seed)
    cov = [[1, correlation], [correlation, 1]]
    quality = 0.5 + 0.06 * rng.multivariate_normal([0, 0], cov, policies).T
    hard = 0.15 * rng.standard_normal(images).repeat(2)  # alike for both models
    shape = (policies, 2 * images)
    models = [(rng.random(shape) < q[:, None] + hard).astype(np.uint8) for q in quality]
    return models, np.tile([0.1, 0.5], policies // 2), np.arange(2 * images) // 2


def test_correction_takes_the_noise_of_examples_away():
    models, strata, image = _models(0.8)
    found = ranks.agreement(models, [(0, 1)], strata, image, equal_cost=True, resamples=60)
    assert found.value < 0.72  # noise hides part of 0.8
    assert found.corrected == pytest.approx(0.78, abs=0.08)  # Spearman of a normal pair at 0.8 is 0.786
    assert found.interval[0] < found.value < found.interval[1] + 0.05
    assert found.interval[1] - found.interval[0] > 0.8 * (found.over_policies[1] - found.over_policies[0])
    strange, _, _ = _models(0.0, seed=1)
    nothing = ranks.agreement(strange, [(0, 1)], strata, image, equal_cost=True, resamples=60)
    assert abs(nothing.value) < 0.2 and nothing.interval[0] < 0.1


def test_reliability_is_what_a_second_sample_would_agree():
    models, strata, image = _models(1.0, images=600)
    first = models[0][:, :600]
    second = models[0][:, 600:]
    truth = ranks.within(strata)(first.mean(1), second.mean(1))
    found = ranks.reliability(first, strata, image[:600], equal_cost=True)
    assert found == pytest.approx(truth, abs=0.1) and 0.4 < found < 0.95


def test_the_worth_of_a_choice():
    strata = np.array([1, 1, 1])
    one, other = np.array([0.9, 0.5, 0.1]), np.array([0.6, 0.7, 0.2])
    found = study.choice([one, other], [(0, 1)], strata)
    # From one to the other 0.1 is lost and one of two is beaten; back 0.4 and one of two.
    assert found["loss"] == pytest.approx((0.1 + 0.4) / 2)
    assert found["beats"] == pytest.approx(0.5)
    assert found["best_over_median"] == pytest.approx((0.1 + 0.4) / 2)


# --- depth ---


def _depths(name: str, layers: int, place, images: int = 80) -> Depths:
    """A model whose quality and loss at a layer follow how much of its work is done there, `place(share)`."""
    rng = np.random.default_rng(layers)
    done = np.array([place(layer / layers) for layer in range(1, layers)])
    level = 0.15 + 0.8 * done
    hard = np.linspace(-0.1, 0.1, len(depth.CUTS) + 1)
    chance = np.clip(level[None, :, None] + hard[:, None, None], 0, 1)
    correct = rng.random((len(hard), layers - 1, 2 * images)) < chance
    gained = np.diff([0.0, *done, 1.0])
    return Depths(
        name,
        "fake",
        (np.arange(2 * images) // 2).astype(str),
        gained,
        2.0 * (1 - done) / (1 - done[0]),
        correct.astype(np.uint8),
    )


def test_mapping_by_function_finds_where_the_work_is_done():
    late = _depths("a-late", 10, lambda share: share**3)
    early = _depths("b-early", 14, lambda share: 1 - (1 - share) ** 3)
    rel = depth.mapping("relative", late, early)
    assert rel == {layer: map_depth(layer, 10, 14) for layer in range(1, 10)}
    for rule in ("attention", "withdrawal"):
        found = depth.mapping(rule, late, early)
        # What is half done at 0.79 of the late model is half done at 0.21 of the early one.
        assert found[8] <= 4 < rel[8] == 12
        assert list(found.values()) == sorted(found.values())
    twins = depth.mapping("withdrawal", late, replace(late, model="c"))
    assert twins == {layer: layer for layer in range(1, 10)}

    compared = depth.compare(late, early, resamples=60)
    assert compared["withdrawal"]["value"] > compared["relative"]["value"] + 0.02
    assert compared["withdrawal"]["gain_low"] > 0 and compared["relative"]["gain"] == 0
    kept, text = page.kept_rule({"depth": {"pairs": [{"same_family": False, "rules": compared}]}})
    assert kept in ("withdrawal", "attention") and "Mapping" in text
    alike = depth.compare(_depths("d", 10, lambda s: s), _depths("e", 14, lambda s: s), resamples=60)
    assert page.kept_rule({"depth": {"pairs": [{"same_family": False, "rules": alike}]}})[0] == "relative"
    # Where depths really travel, within a family, decides.
    both = [{"same_family": False, "rules": compared}, {"same_family": True, "rules": alike}]
    kept, text = page.kept_rule({"depth": {"pairs": both}})
    assert kept == "relative" and text.startswith("Across families") and "Within a family" in text


# --- outcomes ---


class Fake(FakeEvaluator):
    """Stands in for the evaluator; stops after some policies."""

    anatomy: Anatomy
    left = 10**9

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def evaluate(self, policy, split, n, *, start=0):
        if policy is not None:
            if Fake.left == 0:
                raise KeyboardInterrupt
            Fake.left -= 1
        return super().evaluate(policy, split, n, start=start)


def test_an_interrupted_measurement_goes_on(sampled, families, tmp_path, monkeypatch):
    Fake.anatomy = families[0].evaluated[0]
    monkeypatch.setattr(measure, "Evaluator", Fake)
    policies = [s.policies["qwen2_5_vl"] for s in sampled]
    path = tmp_path / "m.npz"
    Fake.left = 7
    with pytest.raises(KeyboardInterrupt):
        measure.measure("m", tmp_path, policies, path, 128)
    assert not study.complete(measure.Measured.read(path))
    Fake.left = 10  # five of seven were written
    found = measure.measure("m", tmp_path, policies, path, 128)
    assert study.complete(found) and found.examples == 128 and Fake.left == 0
    Fake.left = 15
    longer = measure.measure("m", tmp_path, policies, path, 256)
    assert longer.examples == 256 and np.array_equal(longer.correct[:, :128], found.correct)
    with pytest.raises(SpecError, match="holds other policies"):
        measure.measure("m", tmp_path, policies[:-1], path, 256)
    with pytest.raises(SpecError, match="not a multiple of 128"):
        measure.measure("m", tmp_path, policies, path, 100)


def test_the_small_scenes_are_data_of_their_own():
    task = measure.SmallScenes()
    assert task.fingerprint != Scenes().fingerprint
    (first,) = task.examples("search", 1)
    assert first.load()[0].size == (112, 112) and task.sibling("search", first) is None


# --- the small models ---


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava"])
def test_small_models_are_as_deep_as_the_shipped_ones(family, families):
    small = train.RUNNERS[f"{family}-small"]
    built = model.build(**small.sizes) if family == "qwen2_5_vl" else llava.build(**small.sizes)[0]
    mine = anatomy(built.config)
    (shipped,) = next(f.evaluated for f in families if f.full.family == family)
    assert (mine.decoder.layers, mine.vision.blocks) == (shipped.decoder.layers, shipped.vision.blocks)
    assert mine.visual_tokens(112, 112) == 64
    assert mine.parameters < shipped.parameters


def test_seeds_see_other_scenes(tmp_path):
    sizes = {"layers": 2, "width": 40, "heads": 2, "tower_width": 32, "blocks": 2}
    one, two = (
        train.RUNNERS["qwen2_5_vl-small"](Options(tmp_path, processes=1, compile=False, sizes=sizes, seed=s))
        for s in (1, 2)
    )
    assert one.scene_seeds(24) == range(24)  # the shipped proxies' own
    assert not set(two.scene_seeds(24)) & set(range(10**8))


# --- what is printed ---


def test_no_claim_below_the_least():
    low = transfer.make("llava", 0.69, 0.6, 0.75, 0.9, None, 200, 128, ["a", "b", "c"])
    high = transfer.make("llava", 0.71, 0.6, 0.75, 0.9, None, 200, 128, ["a", "b", "c"])
    assert not low.claim_allowed and "no transfer claim" in low.text
    assert high.claim_allowed and "no transfer claim" not in high.text
    assert "0.71 (0.60 to 0.75; 0.90 over all costs)" in high.text
    assert transfer.ceiling("no_such_family") is None


def test_the_shipped_ceilings_are_those_of_the_stored_outcomes():
    """Made again from the files beside the page, without what the study's own code does."""
    rows = json.loads((STUDY / "policies.json").read_text())
    strata = np.array([row["share"] for row in rows])
    shipped = json.loads(transfer.FILE.read_text())
    assert shipped
    for family, found in shipped.items():
        scores = []
        for name in found["models"]:
            with np.load(STUDY / f"{name}.npz") as file:
                scores.append(file["correct"][:, : found["examples"]].mean(1))
        values = [
            spearmanr(a[strata == s], b[strata == s]).statistic
            for i, a in enumerate(scores)
            for b in scores[i + 1 :]
            for s in sorted(set(strata))
        ]
        assert found["value"] == pytest.approx(np.mean(values), abs=1e-3)
        ceiling = transfer.ceiling(family)
        assert ceiling is not None and ceiling.text in (STUDY / "README.md").read_text()
        assert ceiling.claim_allowed == (found["value"] >= 0.7)
