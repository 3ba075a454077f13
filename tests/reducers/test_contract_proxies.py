"""Every registered reducer runs end to end, from pictures and questions to answers, on at least one shipped proxy."""

from __future__ import annotations

from functools import cache

import pytest

from autotc import proxies
from autotc.apply import check
from autotc.errors import UnsupportedError
from autotc.evaluate import Evaluator
from autotc.policy import ModelRef, Policy, Stage
from autotc.reducer import Reducer, reducers
from autotc.tasks.scenes import Scenes

EXAMPLES = 4


@cache
def evaluator(name: str) -> Evaluator:
    return Evaluator(proxies.folder(name), Scenes(), threads=1)


def policy(name: str, cls: type[Reducer], site: str) -> Policy:
    numbers = evaluator(name).anatomy
    model = ModelRef(
        family=numbers.family,
        decoder_layers=numbers.decoder.layers,
        vision_blocks=numbers.vision.blocks,
    )
    layer = {"decoder": 3, "vision": 2}.get(site)
    keep = 0.0 if cls.withdraws else 0.25
    return Policy(model=model, stages=(Stage(site=site, layer=layer, reducer=cls.name, keep=keep),))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", reducers.names())
def test_reducer_runs_on_a_proxy(name: str) -> None:
    cls, ran, refused = reducers.get(name), [], []
    for proxy in proxies.names():
        for site in cls.sites:
            document = policy(proxy, cls, site)
            try:
                check(document, evaluator(proxy).anatomy)
            except UnsupportedError as error:
                refused.append(f"{proxy}, {site}: {error}")
                continue
            outcomes = evaluator(proxy).evaluate(document, "search", EXAMPLES)
            (stage,) = outcomes.trace
            assert len(outcomes) == EXAMPLES
            assert stage["kept"] <= stage["asked"] if cls.adaptive else stage["kept"] == stage["asked"]
            ran.append((proxy, site))
    assert {site for _, site in ran} == set(cls.sites), f"{name} runs at {ran} only; {refused}"
