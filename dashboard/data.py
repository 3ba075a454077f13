"""What pages show: reads of the store, each kept until the study it is of changes.

Whatever is computed comes from autotc's own modules (`export`, `pareto`, `breakdown`); here it is only asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import streamlit as st

from autotc import pictures
from autotc.export import BASELINES, Best, Member, choose, document, front, member
from autotc.figures import Mark, Role
from autotc.pareto import hypervolume_history, non_dominated
from autotc.pictures import Pictures
from autotc.policy import Number, Policy
from autotc.store.engine import DEFAULT_URL
from autotc.store.reader import Glance, Reader, Version, WorkRow
from autotc.store.rows import StudyRow, TrialRow

if TYPE_CHECKING:  # with them comes SciPy, which only one page needs
    from autotc._outcomes import Outcomes
    from autotc.breakdown import GroupChange

WIDTH = NormalDist().inv_cdf(0.975)  # standard errors to either side of a 95 % interval
SHOWN = 120  # characters of a name or a policy's description
LOWER = ("kl", "tflops_exact", "tflops_literature", "memory_gib", "latency_ms", "kv_bytes", "visual_tokens")
SHARES = ("quality", "worst_group", "grounded", "agreement", "next_question")
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


@dataclass(frozen=True, eq=False)
class Picked:
    """The front within a budget, and what stands out on it, by the names members are chosen by."""

    names: list[str]
    split: str
    best: str | None
    knee: str | None
    cheapest: str | None

    def tag(self, name: str) -> str:
        """Return what stands out about a member."""
        tags = {"best": self.best, "knee": self.knee, "cheapest within noise": self.cheapest}
        return ", ".join(word for word, other in tags.items() if other == name)


def picked(view: StudyView, limit: float | None, convention: str | None = None) -> Picked:
    """Return the front within a budget, from stored trials, by the rule of `autotc front` and `autotc export`."""
    found, split = front(list(view.members.values()), limit, convention or view.convention)
    if not found:
        return Picked([], split, None, None, None)
    rules: tuple[Best, ...] = ("quality", "knee", "cheapest")
    best, knee, cheapest = (view.name_of(choose(found, split, rule)) for rule in rules)
    return Picked([view.name_of(m) for m in found], split, best, knee, cheapest)


def number(of: Member, axis: Axis, split: str) -> Number | None:
    """Return a member's figure on an axis."""
    wanted = axis.split or (split if axis.kind != "estimated" else None)
    there = [n for n in of.numbers if n.name == axis.name and n.kind == axis.kind]
    exact = next((n for n in there if n.split == wanted), None)
    if exact is None and axis.split is None and axis.kind != "estimated":
        # not confirmed on the front's split: what the search itself measured
        return next((n for n in there if n.split == "search"), None)
    return exact


def marks(
    view: StudyView, x: Axis, y: Axis, limit: float | None, counts: str, chosen: Picked, other: bool = False
) -> list[Mark]:
    """Return a study's members on two axes.

    Args:
        x, y: axes.
        limit: budget; what costs more is drawn as over it.
        counts: the convention it is counted by.
        chosen: the front within it.
        other: only the front, drawn as another study's.
    """
    standard = (x.name, y.name, y.split) == ("tflops_exact", "quality", None)
    on_front = set(chosen.names) if standard else _front_on(view, x, y, limit, counts, chosen.split)
    out = []
    for name, m in view.members.items():
        if other and name not in on_front:
            continue
        one, two = number(m, x, chosen.split), number(m, y, chosen.split)
        if one is None or two is None:
            continue
        role: Role = "trial"
        if other:
            role = "other"
        elif m.reference:
            role = "reference" if m.label in BASELINES else "preset"
        elif name in on_front:
            role = "front"
        elif limit is not None and cost(m, counts) > limit:
            role = "over"
        title = short(name) if m.reference else f"trial {name}"
        hover = (f"{title}: {view.described[name]}", written(two), written(one))
        error = None if two.stderr is None else WIDTH * two.stderr
        out.append(
            Mark(
                name,
                one.value,
                two.value,
                error,
                role,
                short(name) if m.reference else "",
                hover,
            )
        )
    return out


def _front_on(view: StudyView, x: Axis, y: Axis, limit: float | None, counts: str, split: str) -> set[str]:
    names, points = [], []
    for name, m in view.members.items():
        one, two = number(m, x, split), number(m, y, split)
        if not m.reference and one and two and (limit is None or cost(m, counts) <= limit):
            names.append(name)
            points.append([one.value, two.value])
    if not points:
        return set()
    kept = non_dominated(points, maximise=(x.higher_is_better, y.higher_is_better))
    return {name for name, on in zip(names, kept, strict=True) if on}


def cost(of: Member, counts: str = "exact") -> float:
    """Return a member's TFLOP per 1,000 requests by a convention, infinite where it is not stored."""
    found = of.number(f"tflops_{counts}")
    return float("inf") if found is None else found.value


def history(view: StudyView) -> list[float]:
    """Return how much of the plane the front covers after each trial: the area between the front on the search split
    and the corner of quality 0 at the uncompressed model's exact cost, as a share of that model's rectangle.
    """
    corner = view.uncompressed.number("tflops_exact") if view.uncompressed else None
    points = []
    for m in view.members.values():
        quality, cost = m.number("quality", "search"), m.number("tflops_exact")
        if not m.reference and quality and cost:
            points.append([quality.value, cost.value])
    if corner is None or not points:
        return []
    area = hypervolume_history(points, (0.0, corner.value), maximise=(True, False))
    return [float(a) for a in area / corner.value]


def policy_document(view: StudyView, name: str) -> Policy:
    """Return a member's policy as it leaves: with figures and provenance."""
    return document(view.members[name], view.row.name, view.row.spec.get("workload") or {})


def neighbours(view: StudyView, chosen: Picked, name: str) -> list[str]:
    """Return the members of the front next to one by exact cost: the cheaper one, the dearer one."""
    mine = cost(view.members[name])
    cheaper = [n for n in chosen.names if cost(view.members[n]) < mine]
    dearer = [n for n in chosen.names if cost(view.members[n]) > mine]
    return [*cheaper[-1:], *dearer[:1]]


# --- what it does to answers ---


def outcomes(view: StudyView, name: str, split: str) -> Outcomes | None:
    """Return a member's outcomes on a split, None where it was not measured there."""
    return _outcomes(
        address(), view.rows[name].id, split, view.row.evaluated_on, versions().get(view.row.name, ())
    )


@st.cache_resource(max_entries=200, show_spinner=False)
def _outcomes(url: str, trial: int, split: str, on: str, version: Version) -> Outcomes | None:
    from autotc._outcomes import outcomes_from_columns

    columns = _reader(url).outcomes(trial, split)
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


def beside(view: StudyView, chosen: Picked, name: str) -> list[dict[str, str]]:
    """Return the neighbours on the front by exact cost, each with what it costs and gives more or less."""
    me = view.members[name]
    out = []
    for other in neighbours(view, chosen, name):
        m = view.members[other]
        split = (
            "held-out"
            if me.number("quality", "held-out") and m.number("quality", "held-out")
            else chosen.split
        )
        mine, theirs = me.number("quality", split), m.number("quality", split)
        points = f"{100 * (theirs.value - mine.value):+.1f} points" if mine and theirs else "–"
        out.append(
            {
                "trial": other,
                "FLOPs (exact)": f"{cost(m) / cost(me) - 1:+.1%}",
                f"quality ({split})": points,
                "policy": view.described[other],
            }
        )
    return out


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
    glances = store.glances()
    found = []
    for row in store.studies():
        spec = row.spec
        lights = [_light(g) for g in glances.get(row.name, ())]
        limit = spec.get("max_tflops")
        members, split = front(lights, limit, str(spec.get("flops_convention") or "literature"))
        best = choose(members, split, "quality").number("quality") if members else None
        found.append(Summary(row, len(members), best))
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


# --- words ---


def short(text: str, most: int = SHOWN) -> str:
    """Return a text on one line, cut where it is long."""
    line = " ".join(text[: most + 1].split())
    return line if len(text) <= most else f"{line[:most]}…"


def value(number: Number) -> str:
    """Write a figure with as many digits as it deserves."""
    if number.name in SHARES:
        error = "" if number.stderr is None else f" ± {100 * WIDTH * number.stderr:.1f}"
        return f"{100 * number.value:.1f}{error} %"
    if number.name == "kv_bytes":
        return f"{number.value / 2**20:,.1f} MiB"
    digits = 0 if abs(number.value) >= 100 else 1 if abs(number.value) >= 10 else 3
    error = "" if number.stderr is None else f" ± {WIDTH * number.stderr:.{digits}f}"
    return f"{number.value:,.{digits}f}{error} {number.unit}"


def brief(number: Number) -> str:
    """Write a figure without its error."""
    return value(number.model_copy(update={"stderr": None})).removesuffix(f" {number.unit}")


def duration(seconds: float) -> str:
    """Write a time in the units it deserves."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def written(number: Number) -> str:
    """Write a figure with its name, where it is from, and n."""
    where = [
        number.kind,
        *([number.split] if number.split else []),
        *([f"n = {number.n}"] if number.n else []),
    ]
    return f"{number.name.replace('_', ' ')} {value(number)} ({', '.join(where)})"


def axis_title(axis: Axis) -> str:
    """Write what an axis shows."""
    if axis.name.startswith("tflops_"):
        count = "papers' count" if axis.name.endswith("literature") else "exact count"
        return f"TFLOP per 1,000 requests ({count}, estimated)"
    if axis.kind == "measured":
        return f"{axis.name.replace('_', ' ')} ({axis.split or axis.unit}), 95 % interval"
    return str(axis)


def sentence(view: StudyView, chosen: Picked, name: str, limit: float | None) -> str:
    """Say what the selected policy is, in one line."""
    m, tag = view.members[name], chosen.tag(name)
    who = short(name) if m.reference else f"trial {name}"
    if limit is not None and "best" in tag:
        who = f"The best policy at {limit:,.0f} is {who}"
    elif tag:
        who = f"{who} ({tag})"
    quality, exact = m.number("quality"), m.number("tflops_exact")
    said = [f"{who}: {view.described[name]}"]
    said += [written(quality)] if quality else ["quality not measured"]
    said += (
        [f"{exact.value:,.0f} TFLOP exact, {cost(m, 'literature'):,.0f} by the papers' count"]
        if exact
        else []
    )
    return " · ".join(said)


def link(view: StudyView, name: str) -> dict[str, str]:
    """Return what a URL needs to show a policy."""
    return {"study": view.row.name, "trial": name}
