"""Random points of a space, for tests."""

from __future__ import annotations

import math
import random
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autotc.search.space import Space

# enough for every site, and the same however many reducers are added
REDUCERS = ("downsample", "tome", "divprune", "fastervlm", "visionzip", "fastv", "pyramiddrop", "withdraw")


def point(space: Space, rng: random.Random) -> dict[str, Any]:
    """Draw one value for each parameter."""
    params: dict[str, Any] = {}
    for name, d in space.distributions.items():
        if isinstance(d, CategoricalDistribution):
            params[name] = rng.choice(d.choices)
        elif isinstance(d, IntDistribution):
            params[name] = rng.randint(d.low, d.high)
        else:
            assert isinstance(d, FloatDistribution)
            low, high = (math.log(d.low), math.log(d.high)) if d.log else (d.low, d.high)
            value = rng.uniform(low, high)
            params[name] = math.exp(value) if d.log else value
    return params
