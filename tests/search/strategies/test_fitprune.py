"""FitPrune's recipes: within their budgets, fitted to what was measured, charged for it; and the measuring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotc.errors import SpecError
from autotc.policy import map_depth
from autotc.processing import load_model
from autotc.proxies import proxy_folder
from autotc.search._choosing import Chooser
from autotc.search.strategies import attention as file
from autotc.search.strategies import calibrated_on, make
from autotc.search.strategies.attention import Attention, attention_of
from autotc.search.strategies.fitprune import FitPrune
from autotc.testbed import simulate
from autotc.testbed.attention import measure, record
from tests.evaluate_fixtures import Toy, qwen_folder
from tests.fakes import FULL, PROXY
from tests.search.strategies.conftest import EXAMPLES, attention
from tests.testbed.beds import bed, space


def strategy(there: Attention | None = None) -> FitPrune:
    return FitPrune(space(), attention() if there is None else there)


def test_recipes_meet_their_budgets_closely() -> None:
    found = strategy()
    for budget in np.geomspace(found._layers.budget(0.0) * 1.05, space().high, 9):
        policy = found.recipe(float(budget))
        assert {s.reducer for s in policy.stages} == {"fitprune"}
        assert 0.9 * budget < found._layers.cost(policy) <= budget


def test_a_recipe_deletes_where_the_tokens_are_not_looked_at() -> None:
    """All of the attention on two tokens from the second layer on: the others leave behind it, at no loss."""
    there = attention()
    cross, own = np.ones((2, *there.cross.shape))
    for values in (cross, own):
        values[1::2, :, -1] = 0
        values[:, 0, :2], values[:, 1:, 2:] = 2, 0
    policy = strategy(replace(there, cross=cross, own=own)).recipe(space().high)
    first = policy.stages[0]
    assert first.layer == map_depth(2, PROXY.decoder.layers, FULL.decoder.layers)
    assert first.keep == pytest.approx(2 / 96, abs=1 / 500)


def test_attention_decides_how_deep_the_cuts_are() -> None:
    early = strategy().recipe(space().high)
    there = attention()
    turned = strategy(replace(there, cross=there.cross[:, ::-1].copy(), own=there.own[:, ::-1].copy()))
    assert turned.recipe(space().high).id != early.id


def test_it_ends_when_there_are_no_other_recipes() -> None:
    flat = attention()
    flat = replace(flat, cross=np.ones_like(flat.cross), own=np.ones_like(flat.own))
    found = strategy(flat)
    policies = list(found.plan())
    assert len({p.id for p in policies}) == len(policies) > 1


def test_instrumented_forwards_are_charged() -> None:
    assert calibrated_on(make("fitprune", space(), 0)) == EXAMPLES
    assert calibrated_on(make("greedy", space(), 0)) == 0
    course = simulate.run(bed(), "fitprune", 0, 700)
    assert course.evaluations[0] in (EXAMPLES, EXAMPLES + 256) and course.evaluations[-1] <= 700


def test_a_study_says_what_was_run_beforehand() -> None:
    assert Chooser("greedy", space(), 0).note is None
    note = Chooser("fitprune", space(), 0).note
    assert note == "The strategy rests on 6 more runs of an example, made beforehand: autotc bench attention"


def test_what_the_proxies_ship_is_what_is_measured() -> None:
    folder = proxy_folder("llava")
    assert folder is not None
    from autotc.tasks.scenes import Scenes

    model, processor = load_model(folder)
    before = model.config._attn_implementation
    found = record(model, processor, Scenes().examples("search", 2), folder.name)
    assert model.config._attn_implementation == before
    there = Attention.read(folder / file.FILE)
    assert there.on == folder.name and there.cross.shape[1] == model.config.text_config.num_hidden_layers
    np.testing.assert_allclose(there.cross[:2], found.cross, atol=2e-3)
    np.testing.assert_allclose(there.own[:2], found.own, atol=2e-3)
    # with the largest of the heads in each place, a token's text gives all tokens together up to one a head
    assert (there.cross.sum(-1) > 0).all() and (
        there.cross.sum(-1) < model.config.text_config.num_attention_heads
    ).all()


def test_measured_beside_the_weights_and_read_from_there() -> None:
    folder = qwen_folder()
    found, path = measure(str(folder), Toy(((84, 84), (84, 56)), images=2), 4)
    assert path == folder / file.FILE and found.tokens.tolist() == [36, 36, 24, 24]
    from autotc.adapter import anatomy

    again = attention_of(anatomy(folder), "fitprune")
    np.testing.assert_allclose(again.cross, found.cross, atol=1e-3)
    assert (found.cross[2:, :, 24:] == 0).all() and (found.cross[:, :, :24] > 0).all()


def test_without_a_measurement_it_says_how_to_make_one(tmp_path: Path) -> None:
    here = replace(PROXY, id=str(tmp_path))
    with pytest.raises(
        SpecError, match=r"--strategy fitprune: .* not there\. Measure it: autotc bench attention"
    ):
        attention_of(here, "fitprune")
    attention().write(tmp_path / file.FILE)
    assert attention_of(here, "fitprune").tokens.tolist() == attention().tokens.tolist()
    deeper = replace(here, decoder=replace(here.decoder, layers=20))
    with pytest.raises(SpecError, match="holds 14 layers, the model has 20"):
        attention_of(deeper, "fitprune")
    (tmp_path / file.FILE).write_text("text")
    with pytest.raises(SpecError, match="not what `autotc bench attention` writes"):
        attention_of(here, "fitprune")
