"""Points of a space of parameters from places in the unit cube."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


def from_unit(
    distributions: Mapping[str, BaseDistribution], place: Sequence[float] | np.ndarray
) -> dict[str, Any]:
    """Return one value for each parameter, uniform over its distribution where the places are uniform.

    Args:
        distributions: by name.
        place: (number of parameters,), in [0, 1).
    """
    return {
        name: _value(distribution, float(u))
        for (name, distribution), u in zip(distributions.items(), place, strict=True)
    }


def _value(distribution: BaseDistribution, u: float) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(u * len(distribution.choices)), len(distribution.choices) - 1)]
    if isinstance(distribution, IntDistribution):
        span = distribution.high - distribution.low + 1
        return distribution.low + min(int(u * span), span - 1)
    assert isinstance(distribution, FloatDistribution)
    if distribution.log:
        return min(
            distribution.high, distribution.low * math.exp(u * math.log(distribution.high / distribution.low))
        )
    return distribution.low + u * (distribution.high - distribution.low)
