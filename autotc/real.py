"""`autotc real`: everything for one model with weights and one data set, written into a folder that can be shown.

A policy is verified, the proxy calibrated, and policies are searched at the three published budgets (192, 128 and 64
of 576 tokens: the same shares of the data's own tokens). The three are one study, whose trials all budgets share: it
goes on with the next limit and more trials, and the presets are scaled to each. What is in the database or in
`results.json` already is not run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotc.calibrating import Calibration, calibrate
from autotc.cost import estimate
from autotc.errors import SpecError
from autotc.export import Member, write_text
from autotc.leaderboard import SHARES
from autotc.pairs import Pair
from autotc.policy import ModelRef, Policy, Stage, load_policy
from autotc.running import make_task, search
from autotc.search.result import Result
from autotc.store import Store
from autotc.tables.fronts import FrontView
from autotc.verify import verify
from autotc.weights import fingerprint

OF = 576  # the papers' number of tokens, which names the budgets
OWN = "real-"  # begins the names of the studies made here
BASELINES = ("uncompressed", "random", "downsample")


@dataclass(frozen=True)
class Asked:
    """What `autotc real` was asked for.

    Args:
        model, data: as for a search; both needed.
        out: the folder that is written.
        policy: to be verified; None takes the best of the latest study of a model like this one.
        trials: at each budget.
        anchors: of the calibration.
        examples: of a trial; as many in selection, twice as many held-out.
        max_drop: the largest loss that counts as verified.
        quiet: print nothing about the searches.
    """

    model: str
    data: str
    out: Path
    policy: Path | None = None
    trials: int = 40
    anchors: int = 20
    examples: int = 256
    max_drop: float = 0.02
    storage: str | None = None
    device: str = "auto"
    skip_bad: bool = False
    quiet: bool = False


@dataclass
class Budget:
    """One of the three budgets.

    Args:
        tokens: of 576, its name.
        limit: TFLOP per 1,000 requests, literature convention.
        result: of the search under this limit.
        front: within the limit.
        chosen: trial that was exported, None where the front is empty.
    """

    tokens: int
    limit: float
    result: Result
    front: list[Member]
    chosen: Member | None


@dataclass
class Real:
    """What came of it."""

    asked: Asked
    model: str
    calibration: Calibration | None = None
    budgets: list[Budget] = field(default_factory=list)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "model": self.model,
            "data": self.asked.data,
            "folder": str(self.asked.out),
            "calibration": None if self.calibration is None else self.calibration.as_dict(),
            "verified": self.verdicts,
            "budgets": [
                {
                    "tokens": b.tokens,
                    "max_tflops": b.limit,
                    "study": b.result.study,
                    "front": [m.trial for m in b.front],
                    "policy": None if b.chosen is None else b.chosen.policy.id,
                    "claims": [c.text for c in b.result.claims],
                }
                for b in self.budgets
            ],
        }


def run(asked: Asked, say: Callable[[str], None]) -> Real:
    """Do what is missing, and write the folder anew.

    Args:
        say: prints a line of progress.

    Raises:
        SpecError: the model, the data or the policy cannot be used.
        KeyboardInterrupt: what was measured is stored; the same command goes on.
    """
    pair = Pair.find(asked.model)
    task = make_task(asked.data, asked.skip_bad)
    asked.out.mkdir(parents=True, exist_ok=True)
    found = Real(asked, pair.source.id)
    keys = (fingerprint(pair.folder), task.fingerprint)
    log = _Log(asked, keys)
    # other weights under the same path are another study
    digest = hashlib.sha256(" ".join((*keys, str(asked.examples))).encode()).hexdigest()[:8]
    study = f"{OWN}{pair.folder.name.lower()}-{digest}"
    say("1/3 verify")
    given = asked.policy or _best_so_far(asked, pair, say)
    if given is not None:
        found.verdicts["given"] = log.verdict("given", given, say)
    say("2/3 calibrate")
    found.calibration = calibrate(
        asked.model, asked.data, asked.anchors, 128, asked.storage, asked.device, asked.skip_bad, say
    )
    say("3/3 three budgets")
    workload = task.workload()  # type: ignore[attr-defined]
    limits = {round(share * OF): _limit(pair, share, workload) for share in SHARES}
    for number, (tokens, limit) in enumerate(limits.items(), 1):
        say(
            f"{tokens} of {OF} tokens: at most {limit:.1f} TFLOP per 1,000 requests, {number * asked.trials} trials"
        )
        _searched(asked, study, limit, number, asked.quiet)
    for number, (tokens, limit) in enumerate(limits.items(), 1):
        # answered from what all three have stored, so that a second run reads the same
        budget = _budget(asked, tokens, limit, _searched(asked, study, limit, number, True))
        found.budgets.append(budget)
        if budget.chosen is not None:
            path = asked.out / f"policy-{tokens}.json"
            found.verdicts[str(tokens)] = log.verdict(str(tokens), path, say)
        write_text(asked.out / "README.md", page(found))
    return found


def _limit(pair: Pair, share: float, workload: Any) -> float:
    """Return what random tokens behind the projector cost where a share stays, by the papers' count."""
    anatomy = pair.source.anatomy
    model = ModelRef(
        family=anatomy.family,
        id=anatomy.id,
        decoder_layers=anatomy.decoder.layers,
        vision_blocks=anatomy.vision.blocks,
    )
    stage = Stage(site="projector", reducer="random", keep=round(share, 6))
    return estimate(Policy(model=model, stages=(stage,)), anatomy, workload).tflops_literature


def _best_so_far(asked: Asked, pair: Pair, say: Callable[[str], None]) -> Path | None:
    """Export the best policy of the latest study of a model of the same family and depth."""
    store, full = Store(asked.storage), pair.source.anatomy
    same = [
        s
        for s in store.studies()
        if (s.model.get("family"), s.model.get("decoder_layers")) == (full.family, full.decoder.layers)
        and not s.name.startswith(OWN)
    ]
    path = asked.out / "policy-given.json"
    if path.is_file():  # chosen by an earlier run, which is what makes a second one repeat it
        return path
    for study in sorted(same, key=lambda s: s.created, reverse=True):
        view = FrontView.read(store, study.name, None, None)
        if view.front:
            document, _ = view.policy()
            write_text(path, document.json_text())
            say(f"the best of study {study.name}: {document.describe()}")
            return path
    say("No policy was given and no study of such a model is stored: those found below are verified instead.")
    return None


def _searched(asked: Asked, study: str, limit: float, number: int, quiet: bool) -> Result:
    """Search under a limit until the study has `number` times the trials of one budget."""
    options = {
        "model": asked.model,
        "data": asked.data,
        "study": study,
        "max_tflops": limit,
        "evaluate_on": "full",
        "trials": number * asked.trials,
        "examples": asked.examples,
        "selection_examples": asked.examples,
        "heldout_examples": 2 * asked.examples,
        "skip_bad": asked.skip_bad,
        "storage": asked.storage,
        "device": asked.device,
    }
    result = search(options, quiet)
    if result.state == "interrupted":
        raise KeyboardInterrupt
    return result


def _budget(asked: Asked, tokens: int, limit: float, result: Result) -> Budget:
    """Read the front of a budget from the study, and write it and its best policy."""
    view = FrontView.read(Store(asked.storage), result.study, limit, "literature")
    rows = [m.as_dict() for m in (*view.front, *_references(result, limit))]
    text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(asked.out / f"front-{tokens}.json", text + "\n")
    chosen = None
    if view.front:
        document, _ = view.policy()
        path = asked.out / f"policy-{tokens}.json"
        if not (path.is_file() and load_policy(path).id == document.id):  # one that was verified stays so
            write_text(path, document.json_text())
        chosen = next(m for m in view.front if m.trial == document.provenance["trial"])
    return Budget(tokens, limit, result, view.front, chosen)


def _references(result: Result, limit: float) -> list[Member]:
    """Return the references of a budget: of each label the dearest within the limit, and the uncompressed model."""
    found: dict[str, Member] = {}
    for m in sorted(result.references, key=lambda m: m.value("tflops_literature")):
        if m.label is not None and (
            not m.policy.stages or m.value("tflops_literature") <= limit * (1 + 1e-9)
        ):
            found[m.label] = m
    order = {label: i for i, label in enumerate(BASELINES)}
    return sorted(found.values(), key=lambda m: (order.get(str(m.label), len(order)), m.label))


class _Log:
    """Verdicts that were reached before, in `results.json`; one holds for its policy, weights, data and limit."""

    def __init__(self, asked: Asked, keys: Sequence[str]) -> None:
        self._asked, self._keys, self._path = asked, list(keys), asked.out / "results.json"
        self._known: dict[str, dict[str, Any]] = {}
        if self._path.is_file():
            try:
                self._known = json.loads(self._path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise SpecError(f"{self._path}: not JSON ({error}); delete it to measure again") from error

    def verdict(self, name: str, path: Path, say: Callable[[str], None]) -> dict[str, Any]:
        """Verify a policy, or return what it was when that was done."""
        asked = self._asked
        wanted = {
            "policy": load_policy(path).id,
            "weights": self._keys[0],
            "data": self._keys[1],
            "examples": 2 * asked.examples,
            "max_drop": asked.max_drop,
        }
        known = self._known.get(name)
        if known is None or {k: known.get(k) for k in wanted} != wanted:
            task = make_task(asked.data, asked.skip_bad)
            reached = verify(path, asked.model, task, 2 * asked.examples, asked.max_drop, device=asked.device)
            known = {**reached.as_dict(), **wanted, "low": reached.measured.low}
            self._known[name] = known
            write_text(self._path, json.dumps(self._known, indent=1, ensure_ascii=False) + "\n")
        verified = "verified" if known["passed"] else "not verified"
        say(f"{path.name}: {verified}, {100 * known['difference']['value']:+.1f} points: {known['describe']}")
        return known


def page(found: Real) -> str:
    """Return the folder's README."""
    asked = found.asked
    lines = [
        f"# {Path(found.model).name} on {Path(asked.data).name}",
        "",
        "Measured on these weights and this data; costs are estimates for this model and the data's own mix of images, "
        "in TFLOP per 1,000 requests. ± is one standard error, clustered by image. Written by `autotc real`; the same "
        "command goes on, and writes it anew.",
    ]
    if given := found.verdicts.get("given"):
        lines += ["", "## The policy that was given", "", _verdict(given, asked.max_drop)]
    if (calibration := found.calibration) is not None:
        lines += ["", "## Calibration of the proxy", "", f"{calibration.agreement.verdict}.", ""]
        lines += ["| anchor | budget | on the model | on the proxy | policy |", "|---|---:|---:|---:|---|"]
        lines += [
            f"| {a.label} | {a.share:.0%} | {_cell(a.numbers[0])} | {_cell(a.numbers[1])} | {a.policy.describe()} |"
            for a in sorted(
                calibration.anchors, key=lambda a: (-a.share, -sum(n.value for n in a.numbers[:1]))
            )
            if a.numbers
        ]
        lines += [
            f"\nLeft out: {a.label} at {a.share:.0%}: {a.reason}" for a in calibration.anchors if a.reason
        ]
    for budget in found.budgets:
        lines += _section(budget, found.verdicts.get(str(budget.tokens)), asked.max_drop)
    return "\n".join(lines) + "\n"


def _section(budget: Budget, verdict: dict[str, Any] | None, max_drop: float) -> list[str]:
    share = budget.tokens / OF
    lines = [
        "",
        f"## {budget.tokens} of {OF} tokens",
        "",
        f"At most {budget.limit:.1f} TFLOP (literature), what random {share:.1%} of the tokens cost. Study "
        f"`{budget.result.study}`, {budget.result.trials} trials; front and references in "
        f"[front-{budget.tokens}.json](front-{budget.tokens}.json).",
        "",
    ]
    if budget.chosen is None:
        lines += ["No trial is within this limit yet.", ""]
    lines += [
        "| | TFLOP lit. | TFLOP exact | selection | held-out | policy |",
        "|---|---:|---:|---:|---:|---|",
    ]
    chosen = budget.chosen
    for m in (*budget.front, *_references(budget.result, budget.limit)):
        name = m.label or f"trial {m.trial}"
        shown = f"**{name}**" if chosen is not None and m.trial == chosen.trial else name
        costs = (f"{m.value(name):,.1f}" for name in ("tflops_literature", "tflops_exact"))
        figures = (_cell(m.number("quality", split)) for split in ("selection", "held-out"))
        lines.append(f"| {shown} | {' | '.join((*costs, *figures))} | {m.policy.describe()} |")
    lines += ["", _sizes(budget.result), ""]
    lines += [f"* {text}" for text in (*(c.text for c in budget.result.claims), *budget.result.no_claims)]
    if verdict is not None:
        lines += [
            "",
            f"[policy-{budget.tokens}.json](policy-{budget.tokens}.json): {_verdict(verdict, max_drop)}",
        ]
    return lines


def _sizes(result: Result) -> str:
    """Say how many examples each column rests on: those of the uncompressed model."""
    plain = next((m for m in result.references if not m.policy.stages), None)
    numbers = {s: plain.number("quality", s) for s in ("selection", "held-out")} if plain else {}
    counts = ", ".join(f"{split} n = {n.n}" for split, n in numbers.items() if n is not None)
    return f"Quality in {counts}; held-out data was looked at {result.looks} times in this study."


def _verdict(verdict: dict[str, Any], max_drop: float) -> str:
    error = verdict["difference"]["stderr"]
    low = "unknown" if verdict["low"] is None else f"{100 * verdict['low']:+.1f}"
    said = "**verified**" if verdict["passed"] else "**not verified**"
    return (
        f"{said}: {verdict['describe']}: {100 * verdict['difference']['value']:+.1f}"
        + ("" if error is None else f" ± {100 * error:.1f}")
        + f" points against the uncompressed model on held-out examples, 95 % bound {low}, accepted "
        f"{-100 * max_drop:g}."
    )


def _cell(number: Any) -> str:
    if number is None:
        return "–"
    error = "" if number.stderr is None else f" ± {100 * number.stderr:.1f}"
    return f"{100 * number.value:.1f}{error} %"
