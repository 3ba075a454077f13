"""What pages show: reads of the store, each kept until the study it is of changes.

Whatever is computed comes from autotc's own modules (`export`, `pareto`, `breakdown`); here it is only asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from autotc import pictures
from autotc.constraints import COSTS, Constraint, parse_constraints
from autotc.export import Member, document, front, member
from autotc.metrics import OBJECTIVES, Metric, parse_objectives
from autotc.pictures import Pictures
from autotc.policy import Number, Policy
from autotc.recommend import Recommendation
from autotc.store.engine import DEFAULT_URL
from autotc.store.reader import Glance, Reader, Version, WorkRow
from autotc.store.rows import StudyRow, TrialRow
from dashboard.words import SHARES, short

if TYPE_CHECKING:  # with them comes SciPy, which only one page needs
    from autotc._outcomes import Outcomes
    from autotc.breakdown import GroupChange

LOWER = ("kl", "tflops_exact", "tflops_literature", "memory_gib", "latency_ms", "kv_bytes", "visual_tokens")
UNCOMPRESSED = "uncompressed"


def address() -> str:
    """Return the database's address, as the command was given it."""
    return os.environ.get("AUTOTC_STORAGE") or DEFAULT_URL


@st.cache_resource(show_spinner=False)
def _reader(url: str) -> Reader:
    return Reader(url)


def reader() -> Reader:
    """Return the one reader of this process."""
    return _reader(address())


@st.cache_data(ttl=1.0, show_spinner=False)
def _versions(url: str) -> dict[str, Version]:
    return _reader(url).versions()


def versions() -> dict[str, Version]:
    """Return what each study's reads are keyed on; looked up at most once a second."""
    return _versions(address())


# --- one study ---


@dataclass(frozen=True)
class Axis:
    """A stored figure that can stand on an axis; `split` None: the split that the front rests on."""

    name: str
    split: str | None
    kind: str
    unit: str

    def __str__(self) -> str:
        words = (
            self.name.replace("tflops_", "TFLOP ").replace("_gib", "").replace("_ms", "").replace("_", " ")
        )
        split = "" if self.split is None else f", {self.split}"
        return f"{words}{split} ({self.kind}, {self.unit})"

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is better."""
        return self.name not in LOWER

    @property
    def share(self) -> bool:
        """Whether it is written as a percentage."""
        return self.name in SHARES


@dataclass(frozen=True, eq=False)
class StudyView:
    """One study as it was when it was read.

    Args:
        row: the study.
        trials: all of them, references included.
        members: those that are complete and measured, by the name they are chosen by.
    """

    row: StudyRow
    trials: list[TrialRow]
    members: dict[str, Member]

    @property
    def limit(self) -> float | None:
        """The budget it was searched under, TFLOP per 1,000 requests."""
        found = self.row.spec.get("max_tflops")
        return float(found) if isinstance(found, int | float) else None

    @property
    def convention(self) -> str:
        """How the budget counts."""
        return str(self.row.spec.get("flops_convention") or "literature")

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        """What was asked of it beside the budget."""
        return parse_constraints(self.row.spec.get("constraints") or ())

    @cached_property
    def objectives(self) -> tuple[Metric, ...]:
        """What it aimed at."""
        return parse_objectives(self.row.spec.get("objectives") or ())

    @cached_property
    def rows(self) -> dict[str, TrialRow]:
        """The stored trial behind each member."""
        stored = [r for r in self.trials if r.state == "complete" and r.numbers]
        return dict(zip(self.members, stored, strict=True))

    @cached_property
    def described(self) -> dict[str, str]:
        """A short reading of each member's policy."""
        return {name: short(m.policy.describe()) for name, m in self.members.items()}

    @cached_property
    def uncompressed(self) -> Member | None:
        """The reference without a policy."""
        return next((m for m in self.members.values() if not m.policy.stages), None)

    @cached_property
    def axes(self) -> list[Axis]:
        """Every figure that some member has, costs last."""
        seen = {(n.name, n.split, n.kind): n.unit for m in self.members.values() for n in m.numbers}
        found = [Axis(name, split, kind, unit) for (name, split, kind), unit in seen.items()]
        return sorted(
            found, key=lambda a: (a.kind == "estimated", a.name != "quality", a.name, a.split or "")
        )

    def name_of(self, wanted: Member) -> str:
        """Return the name that a member is chosen by."""
        return next(name for name, m in self.members.items() if m is wanted)


def study(name: str) -> StudyView:
    """Return a study, read again when it has changed.

    Raises:
        StoreError, ValueError: it cannot be read; the message says why.
    """
    return _study(address(), name, versions().get(name, ()))


@st.cache_resource(max_entries=24, show_spinner="Reading the study …")
def _study(url: str, name: str, version: Version) -> StudyView:
    store = _reader(url)
    row = store.study(name)
    if row is None:
        raise ValueError(f"There is no study {name!r} any more.")
    trials = store.trials(name)
    members: dict[str, Member] = {}
    for trial in trials:
        if trial.state == "complete" and trial.numbers:
            found = member(trial)
            key = str(found.trial)
            members[key if key not in members else f"{key} ({trial.id})"] = found
    return StudyView(row, trials, members)


def policy_document(view: StudyView, name: str, why: Recommendation) -> Policy:
    """Return a member's policy as it leaves: with figures, provenance, and what speaks for or against it."""
    workload = view.row.spec.get("workload") or {}
    return document(view.members[name], view.row.name, workload, why.as_dict())


# --- what it does to answers ---


def outcomes(view: StudyView, name: str, split: str) -> Outcomes | None:
    """Return a member's outcomes on a split, None where it was not measured there."""
    return _outcomes(
        address(), view.rows[name].id, split, view.row.evaluated_on, versions().get(view.row.name, ())
    )


@st.cache_resource(max_entries=200, show_spinner=False)
def _outcomes(url: str, trial: int, split: str, on: str, version: Version) -> Outcomes | None:
    from autotc._outcomes import outcomes_from_columns

    columns: dict[str, Any] = dict(_reader(url).outcomes(trial, split))
    if not len(columns["id"]):
        return None
    texts = {name: ["" if v is None else v for v in columns[name]] for name in ("group", "image", "answer")}
    return outcomes_from_columns({**columns, **texts}, split=split, on=on, metric="accuracy")


def group_changes(view: StudyView, name: str) -> tuple[list[GroupChange], str] | None:
    """Return what becomes of each question type, the largest loss first, and the split it was measured on."""
    from autotc.breakdown import by_group

    for split in ("held-out", "selection", "search"):
        found = outcomes(view, name, split)
        if found is not None and len(found):
            return by_group(found), split
    return None


def kept(view: StudyView, name: str) -> list[float] | None:
    """Return the fraction of the original tokens really alive after each stage, None where no trace is stored."""
    stages, trace = view.members[name].policy.stages, view.rows[name].trace
    if len(trace) != len(stages):
        return None
    return [
        s.keep * t["kept"] / t["asked"] if t["asked"] else 0.0 for s, t in zip(stages, trace, strict=True)
    ]


def parts(view: StudyView, name: str) -> dict[str, dict[str, float]]:
    """Return the exact cost by part of a member and of the uncompressed model."""
    full = view.uncompressed
    wanted = {"this policy": name}
    if full is not None and full is not view.members[name]:
        wanted[UNCOMPRESSED] = view.name_of(full)
    found = {title: view.rows[key].costs.get("parts") for title, key in wanted.items()}
    return {title: costs for title, costs in found.items() if costs}


# --- pictures ---


def pictures_folder() -> Path:
    """Return where the pictures of this database lie."""
    return pictures.folder(address())


def seen(view: StudyView, name: str) -> Pictures | None:
    """Return a policy's pictures, None where none were made.

    Raises:
        DataError: their description cannot be read.
    """
    return pictures.read(pictures_folder(), view.members[name].policy.id)


# --- all studies ---


@dataclass(frozen=True)
class Summary:
    """One line of the list of studies."""

    row: StudyRow
    front: int
    best: Number | None

    @property
    def done(self) -> int:
        """Trials that ended."""
        return sum(n for state, n in self.row.counts.items() if state != "running")


def summaries() -> list[Summary]:
    """Return all studies, newest first."""
    return _summaries(address(), tuple(versions().items()))


@st.cache_resource(max_entries=4, show_spinner="Reading the studies …")
def _summaries(url: str, version: tuple[tuple[str, Version], ...]) -> list[Summary]:
    store = _reader(url)
    glances = store.glances(costs={m.field for m in COSTS.values() if m.field})
    found = []
    for row in store.studies():
        spec = row.spec
        aims = parse_objectives(spec.get("objectives") or ())
        lights = [_light(g) for g in glances.get(row.name, ())]
        if aims != OBJECTIVES:  # about figures that a glance leaves out
            lights = [member(t) for t in store.trials(row.name, "trial", "complete") if t.numbers]
        limit = spec.get("max_tflops")
        given = parse_constraints(spec.get("constraints") or ())
        members, split = front(lights, limit, str(spec.get("flops_convention") or "literature"), given, aims)
        best = max(members, key=lambda m: m.value("quality", split), default=None)
        found.append(Summary(row, len(members), best.number("quality") if best else None))
    return found[::-1]


def _light(glance: Glance) -> Member:
    # a member without its policy: what the rule of the front looks at
    figures = [
        Number.model_construct(
            name="quality",
            value=value,
            unit="accuracy",
            kind="measured",
            on="",
            split=split,
            stderr=stderr,
            n=n,
        )
        for split, value, stderr, n in glance.qualities
    ]
    costs = [
        Number.model_construct(name=name, value=value, unit="", kind="estimated", on="", split=None)
        for name, value in glance.costs.items()
    ]
    return Member(glance.number, None, Policy.model_construct(), (*figures, *costs))


def work() -> list[WorkRow]:
    """Return who works on what; read anew each time."""
    return reader().work()
