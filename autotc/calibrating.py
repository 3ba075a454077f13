"""`autotc calibrate`: anchor policies on the real weights and on the proxy, stored one by one, then compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotc import anchors as an
from autotc._outcomes import Outcomes, numbers
from autotc.anatomy import Anatomy
from autotc.cost import estimate
from autotc.errors import SpecError, UnsupportedError
from autotc.leaderboard import Entry, plan
from autotc.pairs import Pair
from autotc.policy import Number
from autotc.progress import duration
from autotc.running import make_evaluator, make_task
from autotc.search._fidelity import SPLIT, proposals
from autotc.search.space import Space
from autotc.store import AnchorRow, CalibrationRow, Store
from autotc.weights import placement
from autotc.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotc.search._session import Evaluates

LEAST_COST = 0.97  # of the budget: anchors of one budget must cost the same
PROPOSALS = 8  # drawn at each budget, of which anchors take what they need
SURVIVABLE = (ArithmeticError, MemoryError, RuntimeError, UnsupportedError, ValueError)


@dataclass(frozen=True)
class Calibration:
    """A finished calibration.

    Args:
        row: as stored.
        anchors: those this run asked for, in their order.
        agreement: what came of them.
        measured: anchors this run measured; the others were stored before.
        metric: accuracy or agreement.
    """

    row: CalibrationRow
    anchors: tuple[AnchorRow, ...]
    agreement: an.Agreement
    measured: int
    metric: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        anchors = [{k: v for k, v in a.as_dict().items() if k != "outcomes"} for a in self.anchors]
        row = {k: v for k, v in self.row.as_dict().items() if k not in ("anchors", "result")}
        return {
            **row,
            **self.agreement.as_dict(),
            "metric": self.metric,
            "measured": self.measured,
            "anchors": anchors,
        }


def calibrate(
    model: str,
    data: str,
    n: int,
    examples: int,
    storage: str | None,
    device: str,
    skip_bad: bool,
    say: Callable[[str], None],
) -> Calibration:
    """Measure anchors that are not stored yet, compare the orders, and store what came of it.

    Args:
        model: with weights on this machine.
        data: a JSONL; its selection split is used, the held-out one never.
        n: anchors.
        examples: of the data.
        device: of the model; the proxy runs on the CPU.
        say: prints a line of progress.

    Raises:
        SpecError: the model or the data cannot be used, or fewer than six anchors could be measured.
    """
    pair = Pair.find(model)
    task = make_task(data, skip_bad)
    there = len(task.examples("selection", examples))
    full, workload = pair.source.anatomy, task.workload()  # type: ignore[attr-defined]
    keys = pair.keys(task.fingerprint)
    options = placement(pair.folder, full, device)
    say(
        f"{pair.source.id} on {options['device']} in {options['dtype']}: {there} examples of the selection split; "
        f"{pair.on}: {an.PROXY_EXAMPLES} built-in scenes"
    )
    if there < examples:
        say(f"The data is small: {there} examples in selection where {examples} were asked for.")
    chosen = an.choose(candidates(full, pair.anatomy, workload), n)
    store = Store(storage)
    row = store.start_calibration(pair.source.id, keys[0], pair.on, *keys[1:], examples)
    done = {anchor.policy.id for anchor in row.anchors if anchor.outcomes is not None}
    missing = [e for e in chosen if e.policy is not None and e.policy.id not in done]
    if len(missing) < len(chosen):
        say(f"{len(chosen) - len(missing)} of {len(chosen)} anchors are stored already.")
    with ExitStack() as stack:
        if missing:
            real: Evaluates = stack.enter_context(
                make_evaluator(pair.folder, data, skip_bad, pair.source.id, device=device)
            )
            proxy: Evaluates = stack.enter_context(make_evaluator(pair.proxy, None, False, pair.on))
            _measure(store, row.id, missing, (real, proxy), pair, workload, examples, say)
    row = store.start_calibration(pair.source.id, keys[0], pair.on, *keys[1:], examples)
    found = {anchor.policy.id: anchor for anchor in row.anchors}
    wanted = tuple(found[entry.policy.id] for entry in chosen if entry.policy is not None)
    agreement = compare(wanted)
    store.finish_calibration(row.id, agreement.as_dict())
    store.close()
    return Calibration(row, wanted, agreement, len(missing), str(task.metric))


def candidates(full: Anatomy, proxy: Anatomy, workload: Workload) -> list[Entry]:
    """Return every policy that may be an anchor: recipes, baselines, and points of the search's space.

    What cannot spend its budget, such as a withdrawal at a fixed layer, is none.

    Args:
        full: the model, whose exact costs make the budgets.
        proxy: the model that has to run them as well.
    """
    entries, limits, _ = plan(full, proxy, workload)
    found = [entry for entry in entries if entry.policy is not None]
    space = Space(full, proxy, workload, None, "exact")
    for seed, (share, limit) in enumerate(sorted(limits.items(), reverse=True)):
        drawn = proposals(space, limit, PROPOSALS, seed)
        found += [Entry(f"proposal {i}", an.PROPOSAL, share, p) for i, p in enumerate(drawn, 1)]
    return [
        e for e in found if estimate(e.policy, full, workload).tflops_exact >= LEAST_COST * limits[e.share]
    ]


def compare(anchors: Sequence[AnchorRow]) -> an.Agreement:
    """Return how the orders of measured anchors agree.

    Raises:
        SpecError: fewer than six could be measured.
    """
    good = [a for a in anchors if a.outcomes is not None]
    if len(good) < an.LEAST_ANCHORS:
        reasons = "; ".join(f"{a.label}: {a.reason}" for a in anchors if a.reason)
        raise SpecError(
            f"--anchors: {len(good)} anchors could be measured, at least {an.LEAST_ANCHORS} are needed. {reasons}"
        )
    model, proxy = (an.Losses.read([(a.outcomes or {})[name] for a in good]) for name in ("model", "proxy"))
    return an.agreement(model, proxy, [a.share for a in good])


def _measure(
    store: Store,
    calibration: int,
    entries: Sequence[Entry],
    evaluators: tuple[Evaluates, Evaluates],
    pair: Pair,
    workload: Workload,
    examples: int,
    say: Callable[[str], None],
) -> None:
    begin = time.monotonic()
    for done, entry in enumerate(entries):
        policy = entry.policy
        assert policy is not None
        costs = estimate(policy, pair.source.anatomy, workload).as_dict()
        figures: list[Number] = []
        outcomes: dict[str, Any] | None = None
        reason = None
        try:
            proxy = evaluators[1].evaluate(policy.for_model(pair.anatomy), SPLIT, an.PROXY_EXAMPLES)
            model = evaluators[0].evaluate(policy, "selection", examples)
        except SURVIVABLE as error:
            reason = f"{type(error).__name__}: {error}"
            told = f"left out: {reason}"
        else:
            figures = [x for part in (model, proxy) for x in numbers(part) if x.name == "quality"]
            outcomes = {"model": _columns(model), "proxy": _columns(proxy)}
            told = f"{100 * figures[0].value:.1f} % on the model, {100 * figures[1].value:.1f} % on the proxy"
        store.add_anchor(calibration, entry.label, entry.share, policy, costs, figures, outcomes, reason)
        left = (time.monotonic() - begin) / (done + 1) * (len(entries) - done - 1)
        say(f"anchor {done + 1}/{len(entries)}  {entry.label}: {told}  left {duration(left)}")


def _columns(outcomes: Outcomes) -> dict[str, Any]:
    return {name: getattr(outcomes, name).tolist() for name in ("id", "image", "correct", "full")}
