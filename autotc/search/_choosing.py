"""A strategy by name in a live study: Optuna's trials are its history, what it proposes becomes a trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotc.metrics import OBJECTIVES, Metric
from autotc.policy import Policy
from autotc.search._history import CONSTRAINT
from autotc.search.space import Space
from autotc.search.strategies import Proposed, Seen, calibrated_on, make

_POLICY = "autotc:policy"


class Chooser:
    """Asks a strategy for each trial.

    Args:
        strategy: its name.
        space: of the study.
        seed: of the study.
        objectives: of the study.
    """

    def __init__(
        self, strategy: str, space: Space, seed: int, objectives: Sequence[Metric] = OBJECTIVES
    ) -> None:
        self._strategy = make(strategy, space, seed, objectives)
        self._objectives = tuple(objectives)
        self._known: dict[int, Seen] = {}  # a trial that was told never changes
        self._ordered = strategy != "default"  # which may share a study with other workers

    @property
    def note(self) -> str | None:
        """What the strategy rests on besides its trials, one line."""
        n = calibrated_on(self._strategy)
        return (
            f"The strategy rests on {n} more runs of an example, made beforehand: autotc bench attention"
            if n
            else None
        )

    def __call__(
        self, trials: Sequence[FrozenTrial], start: Mapping[str, Any] | None = None
    ) -> FrozenTrial | None:
        """Return the next trial, None when the strategy has nothing more to try.

        Args:
            trials: of the study, by number.
            start: a point that is to be tried.
        """
        history: list[Seen] = []
        for trial in trials:
            if trial.state == TrialState.RUNNING and self._ordered:
                break  # the history only ever grows at its end
            if trial.state == TrialState.COMPLETE:
                if trial.number not in self._known:
                    self._known[trial.number] = _seen(trial, self._objectives)
                history.append(self._known[trial.number])
        proposed = self._strategy.propose(history, len(trials), start)
        if proposed is None:
            return None
        policy = {} if proposed.policy is None else {_POLICY: json.loads(proposed.policy.json_text())}
        return optuna.create_trial(
            state=TrialState.RUNNING,
            params=dict(proposed.params),
            distributions=dict(proposed.distributions),
            system_attrs=dict(proposed.attributes),
            user_attrs=policy,
        )


def is_point(trial: FrozenTrial) -> bool:
    """Return whether a trial's policy is what its parameters decode to."""
    return bool(trial.params) and _POLICY not in trial.user_attrs


def policy_of(trial: FrozenTrial, space: Space) -> Policy:
    """Return the policy that a trial stands for: its own, or the one that its point decodes to."""
    own = trial.user_attrs.get(_POLICY)
    return space.decode(trial.params).policy if own is None else Policy.model_validate(own)


def _seen(trial: FrozenTrial, objectives: tuple[Metric, ...]) -> Seen:
    own = trial.user_attrs.get(_POLICY)
    values = tuple(trial.values)
    first = next(i for i, m in enumerate(objectives) if m.on_cost)  # figures come before costs
    return Seen(
        trial.number,
        Proposed(
            trial.params,
            None if own is None else Policy.model_validate(own),
            trial.distributions,
            {k: v for k, v in trial.system_attrs.items() if not k.startswith(CONSTRAINT)},
        ),
        values[0] if objectives[0].maximise else -values[0],
        values[first],
        trial.constraints,
        () if objectives == OBJECTIVES else values,
    )
