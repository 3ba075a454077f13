"""Racing: a trial is evaluated on more and more examples, and stopped once it is clearly dominated.

The comparison is paired, on the same examples, with an incumbent that costs no more. Differences are averaged
over the examples of an image, since those are not independent, and bet against one after another: if the
candidate were as good as the incumbent, the wealth of the bets would exceed 1 / alpha with probability at
most alpha, at whatever rung one looks (Ville's inequality). The incumbent was chosen on the same examples, so
the level is nominal, on the side of stopping a little too often.
"""

from __future__ import annotations

import numpy as np

from autotc._outcomes import Outcomes

ALPHA = 0.05
BETS = np.linspace(0.1, 0.9, 9)
FIRST_RUNG = 64


def rungs(examples: int, racing: bool) -> list[int]:
    """Return the totals of examples after which a trial may be stopped; the last one is all of them."""
    steps = [examples]
    while racing and steps[0] >= 2 * FIRST_RUNG:
        steps.insert(0, steps[0] // 2)
    return steps


def evidence(candidate: Outcomes, incumbent: Outcomes) -> float:
    """Return the evidence (an e-value) that the incumbent scores higher, on the examples both have.

    Args:
        candidate, incumbent: outcomes on one split; scores lie in [0, 1].
    """
    differences = _by_image(candidate, incumbent)
    if not len(differences):
        return 1.0
    wealth = np.cumsum(np.log1p(BETS[:, None] * differences[None]), axis=1)
    return float(np.exp(wealth[:, -1]).mean())


def gap(candidate: Outcomes, incumbent: Outcomes) -> float:
    """Return how much higher the incumbent scores on the examples both have, the mean over examples."""
    mine, theirs = _shared(candidate, incumbent)
    return float(np.mean(theirs - mine)) if len(mine) else 0.0


def dominated(candidate: Outcomes, incumbent: Outcomes) -> bool:
    """Whether the candidate can be stopped: the evidence against it reached 1 / alpha."""
    return evidence(candidate, incumbent) >= 1 / ALPHA


def _shared(candidate: Outcomes, incumbent: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    at = {name: i for i, name in enumerate(incumbent.id.tolist())}
    mine = [i for i, name in enumerate(candidate.id.tolist()) if name in at]
    theirs = [at[candidate.id[i]] for i in mine]
    return candidate.correct[mine], incumbent.correct[theirs]


def _by_image(candidate: Outcomes, incumbent: Outcomes) -> np.ndarray:
    """Mean difference (incumbent minus candidate) of each image, in the order images were met."""
    at = {name: i for i, name in enumerate(incumbent.id.tolist())}
    by_image: dict[str, list[float]] = {}
    for i, name in enumerate(candidate.id.tolist()):
        if name in at:
            difference = float(incumbent.correct[at[name]] - candidate.correct[i])
            by_image.setdefault(str(candidate.image[i]), []).append(difference)
    return np.array([np.mean(values) for values in by_image.values()])
