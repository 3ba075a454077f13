"""Two fidelities: a proposal is run on the family's proxy first, and on the model only where that may be worth it.

The rule. A calibration (`autotc calibrate`) gave the line that predicts from a policy's loss on the proxy what it loses
on the model, and how far a new policy strays from it. The upper end of the one-sided 95 % prediction interval, on
top of the uncompressed model's quality, is the most the policy may reach. Where a trial that costs no more has more
than that already, the policy could not come onto the front: it is stored with the proxy's figure and the reason, and
the sampler is told the lower end. A low correlation makes the interval wide, and little is screened out; below a rank
correlation of 0.5 at equal cost, or with 0.3 in its interval, nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autotc._outcomes import mean
from autotc.anatomy import Anatomy
from autotc.anchors import PROXY_EXAMPLES, Line
from autotc.errors import PolicyError, UnsupportedError
from autotc.policy import Number, Policy
from autotc.search.space import Space

if TYPE_CHECKING:
    from autotc.search._session import Evaluates

SPLIT = "search"  # of the built-in task, on which anchors are measured as well


@dataclass(frozen=True)
class Screen:
    """What a calibration allows: picklable, so that worker processes can build the same.

    Args:
        proxy: the small model.
        on: how numbers name it.
        model: how numbers name the model that is predicted.
        evaluator: makes the proxy's evaluator for a number of processes that share the machine.
        line: from loss on the proxy to loss on the model.
        examples: of the built-in task, as many as anchors were measured on.
    """

    proxy: Anatomy
    on: str
    model: str
    evaluator: Callable[[int], Evaluates]
    line: Line
    examples: int = PROXY_EXAMPLES


@dataclass(frozen=True)
class Sight:
    """What the proxy says of a proposal.

    Args:
        numbers: to be stored with the trial: the proxy's quality, and the model's as predicted from it.
        low, high: one-sided 95 % bounds of the model's quality.
    """

    numbers: tuple[Number, ...]
    low: float
    high: float


class Screening:
    """Looks at proposals through the proxy.

    Args:
        screen: what the calibration allows.
        processes: that share the machine.
    """

    def __init__(self, screen: Screen, processes: int) -> None:
        self.screen = screen
        self._evaluator = screen.evaluator(processes)

    def look(self, policy: Policy, full: float) -> Sight | None:
        """Run a policy of the model on the proxy; None where the proxy has no such policy.

        Args:
            full: the uncompressed model's quality on the search split.
        """
        screen = self.screen
        try:
            outcomes = self._evaluator.evaluate(policy.for_model(screen.proxy), SPLIT, screen.examples)
        except (PolicyError, UnsupportedError):  # stages that fall together on so few layers
            return None
        value, error, n = mean(outcomes.correct, outcomes.image)
        loss, sd = screen.line.predict(float((outcomes.correct - outcomes.full).mean()))
        predicted, reach = full + loss, screen.line.bound() * sd
        numbers = (
            Number(
                name="proxy_quality",
                value=value,
                unit="accuracy on the built-in scenes",
                kind="measured",
                on=screen.on,
                stderr=error,
                n=n,
            ),
            Number(
                name="predicted_quality",
                value=predicted,
                unit=outcomes.metric,
                kind="estimated",
                on=screen.model,
                split="search",
                stderr=sd,
                n=screen.line.n,
            ),
        )
        return Sight(numbers, max(0.0, predicted - reach), predicted + reach)


def told(numbers: list[Number], line: Line) -> float | None:
    """Return what the sampler is told of a trial that was screened out, from its stored figures."""
    found = next((n for n in numbers if n.name == "predicted_quality"), None)
    return None if found is None else max(0.0, found.value - line.bound() * (found.stderr or 0.0))


def proposals(space: Space, budget: float, n: int, seed: int) -> list[Policy]:
    """Return `n` different policies as a sampler that knows nothing proposes them, each at most a token below a budget.

    Args:
        space: it draws from; `budget` is counted in its convention.
        seed: of the draw.
    """
    found: dict[str, Policy] = {}
    for params in _points(space, np.random.default_rng(seed)):
        policy = space.decode({**params, "budget": budget}).policy
        if space.fits(policy):
            found.setdefault(policy.id, policy)
        if len(found) == n:
            break
    return list(found.values())


def _points(space: Space, rng: np.random.Generator, most: int = 1000) -> Iterator[dict[str, Any]]:
    for _ in range(most):
        point: dict[str, Any] = {}
        for name, d in space.distributions.items():
            if isinstance(d, CategoricalDistribution):
                point[name] = d.choices[rng.integers(len(d.choices))]
            elif isinstance(d, IntDistribution):
                point[name] = int(rng.integers(d.low, d.high + 1))
            elif isinstance(d, FloatDistribution):
                point[name] = float(rng.uniform(d.low, d.high))
        yield point
