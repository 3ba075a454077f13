"""When more trials are no use: what the last ones brought, measured honestly, against the noise of measuring it.

The rule. Figures of trials are measured on the examples that trials are chosen by, so the front creeps up even where
nothing better is found. What the last half of the trials has really brought is estimated by half-sampling: the images
are split in two at random; the front with those trials, and the front without them, are picked on one half, and their
volumes taken on the other, on which nothing was picked. Over `SPLITS` splits, each used both ways round, the mean
difference is the gain, and the standard deviation of the differences estimates the standard error that it has on all
examples (the delete-half jackknife). A search learns, and the room above it shrinks: as many trials again are expected
to bring no more than these did. The search stops where their gain is at most one standard error, at two
judgements `EVERY` trials apart.

`autotc bench plateau` measures how often that is too early. In 20 simulated searches of each kind (256 examples, 200
trials): where nothing better than the presets was to be found all stopped, at trial 65 in the median, 2 of them too
early; where 10 points were found by trial 50, 17 stopped, at 158 in the median, none too early; where half of what was
left was found every 35 trials, 5 stopped, 1 too early; where quality rose evenly by 12 points over 200 trials, which
is about the noise in as many trials as are judged first, 7 stopped, all too early. With half a standard error instead
3 of the last kind stopped, but only 7 of the second.

Nothing is judged before `LEAST` trials, nor while the last half reaches back to the points that the search started
from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autotc import _outcomes
from autotc._outcomes import Outcomes
from autotc.metrics import OBJECTIVES, Metric
from autotc.pareto import hypervolume, non_dominated

LEAST = 60
EVERY = 5  # trials between two judgements
SPLITS = 20

MEANS = {"quality": "correct", "agreement": "agreement", "kl": "kl", "next_question": "next_correct"}


@dataclass(frozen=True)
class Gain:
    """What the last trials brought.

    Args:
        trials: finished when it was judged.
        window: how many are the last ones.
        value: mean gain in volume, as a share of the volume of the front.
        stderr: its standard error, likewise.
        objectives: how many there are.
    """

    trials: int
    window: int
    value: float
    stderr: float
    objectives: int = 2

    @property
    def over(self) -> bool:
        """Whether it is within the noise."""
        return self.value <= self.stderr

    @property
    def text(self) -> str:
        """One plain sentence."""
        what = "area" if self.objectives == 2 else "volume"
        return (
            f"Stopped after {self.trials} trials: the last {self.window} raised the {what} under the front by "
            f"{100 * self.value:.1f} % ± {100 * self.stderr:.1f} % (one standard error, on examples that did not pick "
            "it), and more are expected to bring no more than that"
        )


@dataclass
class Plateau:
    """Trials of a search, as the rule needs them.

    Args:
        objectives: of the search, figures before costs.
        starts: points that the search begins with.
        seed: of the splits.
        least, splits: see the module.
    """

    objectives: Sequence[Metric] = OBJECTIVES
    starts: int = 0
    seed: int = 0
    least: int = LEAST
    splits: int = SPLITS
    _halves: np.ndarray | None = None
    _places: list[int] = field(default_factory=list)
    _figures: list[np.ndarray] = field(default_factory=list)
    _costs: list[tuple[float, ...]] = field(default_factory=list)
    _gains: dict[int, Gain | None] = field(default_factory=dict)

    def add(self, place: int, outcomes: Outcomes, values: Sequence[float]) -> None:
        """Enter a trial that was evaluated on all search examples.

        Args:
            place: how many trials had finished with it.
            outcomes: on the search examples, the same ones in the same order for every trial.
            values: of the objectives.
        """
        if self._halves is None:
            self._halves = halves(outcomes.image, self.splits, self.seed)
        figures = [m for m in self.objectives if not m.on_cost]
        self._places.append(place)
        self._figures.append(np.array([_on(outcomes, m, self._halves) for m in figures]))
        self._costs.append(tuple(values[len(figures) :]))

    def reached(self, trials: int) -> Gain | None:
        """Return what the last trials brought where that is within the noise, None where the search goes on.

        Args:
            trials: finished in any way; judged at multiples of `EVERY`.
        """
        at = trials - trials % EVERY
        for judged in (at - EVERY, at):
            if judged not in self._gains:
                self._gains[judged] = self.gain(judged)
        before, now = self._gains[at - EVERY], self._gains[at]
        return now if now is not None and before is not None and now.over and before.over else None

    def gain(self, trials: int) -> Gain | None:
        """Return what the last half of so many trials brought, None where it is too early to say."""
        window = trials // 2
        known = np.array(self._places) <= trials
        places = np.array(self._places)[known]
        earlier = places <= trials - window
        if trials < self.least or trials - window < self.starts or not earlier.any():
            return None
        figures = np.array(self._figures)[known]  # (trials, figures, halves)
        costs = np.array(self._costs)[known]
        maximise = [m.maximise for m in self.objectives]
        # the dearest trial is the corner: what costs more than any is worth nothing
        corner = [m.worst for m in self.objectives if not m.on_cost] + (
            costs.max(axis=0) * (1 + 1e-9)
        ).tolist()
        gains, volumes = [], []
        for half in range(figures.shape[2]):
            picking, scoring = (np.column_stack([figures[:, :, h], costs]) for h in (half, half ^ 1))
            front = non_dominated(picking, maximise)
            before = np.zeros(len(places), bool)
            before[earlier] = non_dominated(picking[earlier], maximise)
            volume = hypervolume(scoring[front], corner, maximise)
            same = np.array_equal(front, before)
            gains.append(0.0 if same else volume - hypervolume(scoring[before], corner, maximise))
            volumes.append(volume)
        whole = float(np.mean(volumes)) or 1.0
        value, stderr = float(np.mean(gains)) / whole, float(np.std(gains, ddof=1)) / whole
        return Gain(trials, window, value, stderr, len(self.objectives))


def halves(image: np.ndarray, splits: int, seed: int) -> np.ndarray:
    """Return random halves of the images as masks of examples, (2 * splits, n); each two are one split."""
    names, index = np.unique(image, return_inverse=True)
    rng = np.random.default_rng([seed, len(names)])
    found = []
    for _ in range(splits):
        one = np.zeros(len(names), bool)
        one[rng.permutation(len(names))[: len(names) // 2]] = True
        found += [one[index], ~one[index]]
    return np.array(found)


def _on(outcomes: Outcomes, metric: Metric, masks: np.ndarray) -> np.ndarray:
    """Return a figure on each of some subsets of the examples, NaN where a subset does not give it."""
    if metric.name in MEANS:
        column = getattr(outcomes, MEANS[metric.name])
        there = ~np.isnan(column)
        count = masks @ there.astype(float)
        total = masks @ np.where(there, column, 0.0)
        return np.divide(total, count, out=np.full(len(masks), np.nan), where=count > 0)
    wanted = {
        "worst_group": lambda part: (found := _outcomes.worst(part)) and found[1][0],
        "worst_group_drop": lambda part: (found := _outcomes.worst_group_drop(part)) and found[1],
        "grounded": lambda part: (found := _outcomes.grounded(part)) and found[0],
    }[metric.name]
    values = [wanted(outcomes.take(mask)) for mask in masks]
    return np.array([np.nan if v is None else v for v in values], dtype=float)
