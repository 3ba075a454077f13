"""What a study is compared with (the uncompressed model, random tokens, smaller images, presets), and measuring it."""

from __future__ import annotations

from functools import partial

from autotc.cost import placed_preset
from autotc.device.gauge import MEASURED, Gauged
from autotc.errors import SpecError
from autotc.policy import Policy
from autotc.reducer import Preset, Reducer
from autotc.reducer import reducers as registry
from autotc.search._session import SURVIVABLE, Session
from autotc.search.objectives import QUALITY, point
from autotc.search.space import Space
from autotc.search.spec import SearchSpec
from autotc.store import TrialRow

BASELINES = ("random", "downsample")
DOZEN = 12
_FIDELITY = {"faithful": 0, "own": 0, "adapted": 1, "reconstruction": 2}


def references(space: Space, all_presets: bool = False) -> list[tuple[str, Policy]]:
    """Return label and policy of each reference: uncompressed, baselines, presets scaled to the limit.

    Depths are moved to the nearest that the evaluated model shares with the full one, and the preset is
    scaled again to meet the limit. A preset that the family cannot run, or whose stages fall together on a
    shallow proxy, is left out.

    Args:
        space: the space of the study; its limit is what presets are scaled to.
        all_presets: enter every feasible preset, not the first dozen.
    """
    found = [("uncompressed", Policy(model=space.model))]
    presets = [(c, p) for c in registry.all() for p in c.presets]
    baselines = [(c, p) for name in BASELINES for c, p in presets if c.name == name]
    published = sorted(
        ((c, p) for c, p in presets if c.name not in BASELINES),
        key=lambda entry: (
            entry[0].presets.index(entry[1]) > 0,  # a method's main recipe before its others
            _FIDELITY[entry[0].fidelity],
            entry[1].name,
        ),
    )
    entered = 0
    for cls, preset in [*baselines, *published]:
        if entered >= DOZEN and not all_presets and cls.name not in BASELINES:
            break
        policy = _placed(space, cls, preset)
        if policy is not None and policy.id not in {p.id for _, p in found}:
            found.append((preset.name, policy))
            entered += cls.name not in BASELINES
    return found


def _placed(space: Space, cls: type[Reducer], preset: Preset) -> Policy | None:
    policy = placed_preset(
        cls,
        preset,
        space.full,
        space.evaluated,
        space.workload,
        space.high,
        space.convention,
        positions=space.positions,
    )
    return policy if policy is not None and space.fits(policy) else None


def measure_reference(session: Session, trial_id: int, label: str) -> None:
    """Measure a stored reference on the search split and finish it; one that cannot be run is failed, with a note.

    Raises:
        Exception: what ended the uncompressed model, without which nothing can be measured.
    """
    policy = session.store.trial(trial_id).policy
    costs = session.cost(policy).as_dict()
    try:
        run = partial(session.evaluate_fully, policy, "search", session.spec.examples)
        outcomes = session.insist(trial_id, run)
    except SURVIVABLE as error:
        if not policy.stages:
            raise
        reason = session.failed(error)
        session.notes.append(f"reference {label} could not be run: {reason}")
        fail = partial(session.store.finish_trial, trial_id, "failed", costs=costs, reason=reason)
        session.patiently(partial(fail, environment=session.environment))
        return
    session.failures = 0
    measured = Gauged()
    if session.gauge is not None and any(m.name in MEASURED for m in session.objectives):
        measured = session.gauge(policy)  # or trials that are measured would be held against estimates
    costs = {**session.cost(policy, outcomes.trace).as_dict(), **measured.costs}
    finish = partial(
        session.store.finish_trial,
        trial_id,
        numbers=[*session.evaluator.numbers(outcomes), *measured.numbers],
        reason=measured.why,
        costs=costs,
        violations=session.violations(costs),
        outcomes={"search": outcomes},
        trace=[
            {"stage": i, "asked": float(t["asked"]), "kept": float(t["kept"])}
            for i, t in enumerate(outcomes.trace)
        ],
        seconds=outcomes.seconds,
        environment=session.environment,
    )
    if session.patiently(finish):
        session.keep(trial_id, outcomes)


def refuse_missing(session: Session, plain: TrialRow) -> None:
    """Refuse objectives that not even the uncompressed model has a figure for, before any trial.

    Args:
        plain: the uncompressed model's trial.

    Raises:
        SpecError: an objective cannot be measured on this data.
    """
    missing = [m.name for m in session.objectives if point(plain, (m,)) is None]
    if missing:
        raise SpecError(
            f"--objective: {', '.join(missing)} cannot be measured on this data: the uncompressed model has no "
            "such figure on the search examples. Leave it out, or give more or other examples"
        )


def examples_of(plain: TrialRow, spec: SearchSpec) -> int:
    """Return how many search examples there are, going by the uncompressed model's trial."""
    quality = plain.number_of(QUALITY.name, "search")
    return (quality.n if quality is not None else None) or spec.examples
