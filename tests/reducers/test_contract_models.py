"""Every registered reducer runs inside a model of every family, at each of its sites."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autotc.apply import check, compress, prefill
from autotc.errors import UnsupportedError
from autotc.reducer import Reducer, reducers
from tests.apply import tiny

PLACES = [(cls.name, site) for cls in reducers.all() for site in cls.sites if site != "input"]


@pytest.fixture(scope="module", params=tiny.KINDS)
def family(request: pytest.FixtureRequest) -> tuple[Any, dict[str, torch.Tensor]]:
    kind = request.param
    return tiny.model(kind), tiny.batch(kind, several=True)


def run(model: Any, cls: type[Reducer], site: str, inputs: dict[str, torch.Tensor]) -> tuple[Any, ...]:
    """Return the logits of the prompts' last tokens, the trace under one stage and the image of each row."""
    layer = {"vision": 3, "decoder": 2}.get(site)
    keep = 0.0 if cls.withdraws else 0.4
    policy = tiny.policy(model, {"site": site, "layer": layer, "reducer": cls.name, "keep": keep})
    check(policy, tiny.anatomy(model))
    with torch.no_grad(), compress(model, policy) as compression:
        state = prefill(compression, inputs)
        return state.logits, compression.trace, state.run.prompt.images.group


@pytest.mark.parametrize(("name", "site"), PLACES)
def test_reducer_runs_inside_the_model(
    family: tuple[Any, dict[str, torch.Tensor]], name: str, site: str
) -> None:
    model, inputs = family
    cls = reducers.get(name)
    try:
        logits, trace, group = run(model, cls, site, inputs)
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert torch.isfinite(logits).all()
    (stage,) = trace
    asked, kept = stage["asked"], stage["kept"]
    if cls.joint:  # only an image's sum counts
        asked, kept = (torch.zeros_like(group).index_add(0, group, n) for n in (asked, kept))
    if cls.adaptive:
        assert (kept <= asked).all()
    else:
        assert torch.equal(kept, asked)
