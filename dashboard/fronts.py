"""What pages say of a front: members within a budget, marks on two axes, neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from autotc.export import BASELINES, Member, front
from autotc.figures import Mark, Role
from autotc.metrics import OBJECTIVES
from autotc.pareto import non_dominated
from autotc.policy import Number
from autotc.recommend import Recommendation, recommend
from dashboard import words
from dashboard.data import Axis, StudyView
from dashboard.words import WIDTH, short, written


@dataclass(frozen=True, eq=False)
class Picked:
    """The front within a budget, and what stands out on it, by the names members are chosen by.

    Args:
        names: of the members, cheapest first.
        split: the split it rests on.
        why: what `autotc export` would take, and why; None where the front is empty.
        best: that member.
        knee, cheapest: what it would take by these rules.
    """

    names: list[str]
    split: str
    why: Recommendation | None = None
    best: str | None = None
    knee: str | None = None
    cheapest: str | None = None

    def tag(self, name: str) -> str:
        """Return what stands out about a member."""
        if self.why is not None and not self.why.recommended:
            return "nearest to the constraints" if name == self.best else ""
        tags = {"best": self.best, "knee": self.knee, "cheapest within noise": self.cheapest}
        return ", ".join(word for word, other in tags.items() if other == name)


def picked(view: StudyView, limit: float | None, convention: str | None = None) -> Picked:
    """Return the front within a budget, from stored trials, by the rule of `autotc front` and `autotc export`."""
    given = view.constraints
    everything = list(view.members.values())
    found, split = front(everything, limit, convention or view.convention, given, view.objectives)
    if not found:
        return Picked([], split)
    why = recommend(found, split, given=given)
    rest = (view.name_of(recommend(found, split, rule, given).member) for rule in ("knee", "cheapest"))
    return Picked([view.name_of(m) for m in found], split, why, view.name_of(why.member), *rest)


def why(view: StudyView, chosen: Picked, name: str) -> Recommendation:
    """Return what speaks for or against a policy, chosen by the rule or by hand."""
    if chosen.why is not None and name == chosen.best:
        return chosen.why
    line = [view.members[n] for n in chosen.names]
    return recommend(line, chosen.split, given=view.constraints, named=view.members[name])


def number(of: Member, axis: Axis, split: str, strict: bool = False) -> Number | None:
    """Return a figure on an axis; that of the search where it was not confirmed on the split, unless `strict`."""
    wanted = axis.split or (split if axis.kind != "estimated" else None)
    there = [n for n in of.numbers if n.name == axis.name and n.kind == axis.kind]
    exact = next((n for n in there if n.split == wanted), None)
    if exact is None and axis.split is None and axis.kind != "estimated" and not strict:
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
    usual = x.name.startswith("tflops_") and (y.name, y.split) == ("quality", None)
    standard = usual or view.objectives != OBJECTIVES
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


def joined(marks: list[Mark]) -> bool:
    """Whether the front rises or falls steadily on these axes, and so is a line: it need not where it was drawn up on
    others, such as the other way to count FLOPs.
    """
    line = [m.y for m in sorted((m for m in marks if m.role == "front"), key=lambda m: m.x)]
    return line in (sorted(line), sorted(line, reverse=True))


def _front_on(view: StudyView, x: Axis, y: Axis, limit: float | None, counts: str, split: str) -> set[str]:
    names, points = [], []
    for name, m in view.members.items():
        one, two = number(m, x, split, strict=True), number(m, y, split, strict=True)
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


def neighbours(view: StudyView, chosen: Picked, name: str) -> list[str]:
    """Return the members of the front next to one by exact cost: the cheaper one, the dearer one."""
    mine = cost(view.members[name])
    cheaper = [n for n in chosen.names if cost(view.members[n]) < mine]
    dearer = [n for n in chosen.names if cost(view.members[n]) > mine]
    return [*cheaper[-1:], *dearer[:1]]


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
        points = words.signed(100 * (theirs.value - mine.value), "points") if mine and theirs else "–"
        out.append(
            {
                "trial": other,
                "FLOPs (exact)": words.signed(100 * (cost(m) / cost(me) - 1), "%"),
                f"quality ({split})": points,
                "policy": view.described[other],
            }
        )
    return out


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
    if limit is not None and name == chosen.best and chosen.why is not None:
        best = "best policy" if chosen.why.recommended else "policy nearest to the constraints"
        who = f"The {best} at {limit:,.0f} is {who}"
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


def link(view: StudyView, name: str, limit: float | None, counts: str) -> dict[str, str]:
    """Return what a URL needs to show a policy, and the budget that it was looked for."""
    budget = {} if limit is None else {"budget": f"{limit:g}", "counts": counts}
    return {"study": view.row.name, "trial": name, **budget}
