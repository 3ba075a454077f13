"""Racing: a trial is evaluated on more and more examples, and stopped once it is clearly dominated.

The comparison is paired, on the same examples, with an incumbent that costs no more and whose answers on all search
examples are known. What is bet against is that the candidate would end at least as good on *these* search examples,
of which it has seen some in random order. So it does not matter that the incumbent was chosen on the same examples, nor
how many trials there are: each member of the front that a study without racing ends with is lost with a
probability of at most ALPHA, at whatever rungs one looks (Ville's inequality). `autotc bench statistics` measures it.
"""

from __future__ import annotations

import numpy as np

from autotc._outcomes import Outcomes, shared
from autotc.statistics import e_value

ALPHA = 0.02
FIRST_RUNG = 64


def rungs(examples: int, racing: bool) -> list[int]:
    """Return the totals of examples after which a trial may be stopped; the last one is all of them."""
    steps = [examples]
    while racing and steps[0] >= 2 * FIRST_RUNG:
        steps.insert(0, steps[0] // 2)
    return steps


def evidence(candidate: Outcomes, incumbent: Outcomes) -> float:
    """Return the evidence (an e-value) that the incumbent scores higher on all of its examples.

    Args:
        candidate: outcomes on some examples; scores lie in [0, 1].
        incumbent: outcomes on all examples of the split.
    """
    mine, theirs = shared(candidate, incumbent)
    _, first, index = np.unique(candidate.image[mine], return_index=True, return_inverse=True)
    differences = np.bincount(index, weights=incumbent.correct[theirs] - candidate.correct[mine])
    met = np.argsort(first)  # questions of an image are one bet, images come in the order they were met in
    return e_value(differences[met], np.bincount(index)[met], len(incumbent))


def gap(candidate: Outcomes, incumbent: Outcomes) -> float:
    """Return how much higher the incumbent scores on the examples both have, the mean over examples."""
    mine, theirs = shared(candidate, incumbent)
    return float(np.mean(incumbent.correct[theirs] - candidate.correct[mine])) if len(mine) else 0.0


def dominated(candidate: Outcomes, incumbent: Outcomes, alpha: float = ALPHA) -> bool:
    """Whether the candidate can be stopped: the evidence against it reached 1 / alpha."""
    return evidence(candidate, incumbent) >= 1 / alpha
