"""The front of a study and what leaves it: `front` and `export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from autotc.calibration import named
from autotc.constraints import BEST, Constraint, parse_constraints
from autotc.deploy import engine
from autotc.errors import SpecError
from autotc.export import Member, document, members
from autotc.export import chart as front_chart
from autotc.export import front as pareto_front
from autotc.history import History, history
from autotc.metrics import OBJECTIVES, Metric, known, parse_objectives
from autotc.optimism import Optimism, optimism
from autotc.policy import Policy
from autotc.price import Price
from autotc.recommend import Recommendation, insist, recommend
from autotc.standing import Standing, standings
from autotc.tables.console import console, figure, grid, percent, written

if TYPE_CHECKING:
    from autotc.charts import FrontChart
    from autotc.store import Store


COLUMNS = ("quality", "tflops_exact", "tflops_literature", "visual_tokens")  # of every table of a front


@dataclass(frozen=True)
class FrontView:
    """The front of a stored study within a limit, with its references."""

    study: str
    evaluated_on: str
    workload: dict[str, Any]
    limit: float | None
    convention: str
    everything: list[Member]
    front: list[Member]
    split: str
    constraints: tuple[Constraint, ...] = ()
    standings: Mapping[int | str, Standing] = field(default_factory=dict)
    objectives: tuple[Metric, ...] = OBJECTIVES
    deploy: str = "hf"

    @staticmethod
    def read(
        store: Store,
        study: str,
        limit: float | None,
        convention: str | None,
        constraints: Sequence[str] = (),
        objectives: Sequence[str] = (),
        everything: list[Member] | None = None,
    ) -> FrontView:
        """Read a study and compute its front; limit and convention default to those it was searched under.

        Args:
            constraints: as strings; they take the place of those of the search about the same figures.
            objectives: others than the search had, by name.
            everything: the study's members, where they were read before.

        Raises:
            SpecError: no such study, an unknown convention, or constraints that cannot be met together.
        """
        if everything is None:
            everything = members(store, study)
        row = store.study(study)
        assert row is not None  # members() has refused an unknown study
        convention = convention or row.spec.get("flops_convention", "literature")
        if convention not in ("literature", "exact"):
            raise SpecError(f"--flops-convention: {convention!r} is not literature or exact")
        limit = limit if limit is not None else row.spec.get("max_tflops")
        named = [] if limit is None else [Constraint(f"tflops_{convention}", limit)]
        given = parse_constraints(constraints, named)
        stored = parse_constraints(row.spec.get("constraints") or ())
        given = (*given, *(c for c in stored if all(c.name != g.name for g in given)))
        aims = parse_objectives(objectives or row.spec.get("objectives") or ())
        chosen, split = pareto_front(everything, limit, convention, given, aims)
        return FrontView(
            study,
            row.evaluated_on,
            row.spec.get("workload") or {},
            limit,
            convention,
            everything,
            chosen,
            split,
            given,
            standings(store, study, chosen, [m for m in everything if m.reference]),
            aims,
            deploy=row.spec.get("deploy", "hf"),
        )

    @property
    def references(self) -> list[Member]:
        """References and presets, cheapest first."""
        return sorted((m for m in self.everything if m.reference), key=lambda m: m.value("tflops_exact"))

    @property
    def optimism(self) -> Optimism | None:
        """By how much the front is better on the examples it rests on than on held-out."""
        return optimism(self.front)

    def within(self, costs: Mapping[str, Any]) -> bool:
        """Whether costs meet every limit."""
        named = [] if self.limit is None else [Constraint(f"tflops_{self.convention}", self.limit)]
        limits = [*named, *(c for c in self.constraints if c.on_cost)]
        return all(c.violation(costs) <= 0 for c in limits)

    def chart(self, x: str | None = None, y: str | None = None) -> FrontChart:
        """Return the picture.

        Args:
            x, y: metrics on the axes; by default the first cost and the first figure among the objectives.

        Raises:
            SpecError: an unknown metric, or one that no trial has.
        """
        across = known(x, "--x") if x else next(m for m in self.objectives if m.on_cost)
        up = known(y, "--y") if y else self.objectives[0]
        stairs = {across, up} == set(self.objectives)
        drawn = front_chart(
            self.everything, self.front, self.split, self.study, self.caption(), across, up, stairs
        )
        if not drawn.points and self.everything:
            raise SpecError(f"--plot: no trial of {self.study} has both {across.name} and {up.name}")
        return drawn

    def history(self) -> History | None:
        """Return how far the search had come after each trial."""
        return history(self.everything, self.objectives, self.within)

    def searched(self) -> dict[str, Any]:
        """Return what the search aimed at and how far it had come after each trial, as JSON data."""
        found = self.history()
        aims = [{"name": m.name, "better": "more" if m.maximise else "less"} for m in self.objectives]
        return {
            "study": self.study,
            "split": self.split,
            "objectives": aims,
            "hypervolume": None if found is None else found.as_dict(),
        }

    def caption(self) -> str:
        """Return one line that says what the figures are."""
        limit = f"limit {self.limit:g} TFLOP/1000 ({self.convention})" if self.limit else "no limit"
        return f"{limit}; quality measured on {named(self.evaluated_on)}; cost estimated for the full model"

    def recommend(self, best: str = BEST, named: Member | None = None) -> Recommendation:
        """Return the member that is recommended, or the nearest to it; or hold one that was named by hand against
        the constraints.

        Raises:
            SpecError: the front is empty, or an unknown way to choose.
        """
        return recommend(self.front, self.split, best, self.constraints, named)

    def policy(self, best: str = BEST, trial: int | None = None) -> tuple[Policy, Recommendation]:
        """Return the chosen policy as it leaves, and what speaks for it.

        Raises:
            SpecError: no such trial, or an unknown way to choose.
            AutotcError: nothing meets the constraints that the user gave.
        """
        if trial is not None:
            chosen = next((m for m in self.everything if m.trial == trial), None)
            if chosen is None:
                raise SpecError(f"{self.study}: no finished trial {trial}. See: autotc front {self.study}")
            found = self.recommend(best, chosen)
        else:
            found = self.recommend(best)
            insist(found, self.constraints)
        return document(found.member, self.study, self.workload, found.as_dict()), found

    def print(self, prices: Sequence[Price] = ()) -> None:
        """Print the front, its references, how far it can be trusted, and what engines cost."""
        console.print(f"[bold]{escape(self.study)}[/]  {self.caption()}")
        if not self.front:
            console.print("No finished trial is within the limit yet.")
            return
        qualities = (f"quality ({self.split})", "held-out, 95 % interval")
        left = ("verdict", "policy")
        more = (m.label for m in self.more)
        table = grid("trial", "TFLOP lit.", "TFLOP exact", "tokens", *qualities, *more, *left, left=left)
        for m in self.front:
            self._row(table, m)
        near = self.references
        if near:
            table.add_section()
            for m in near:
                self._row(table, m, style="dim")
        console.print(table)
        if self.aims:
            console.print(
                f"Front: no other trial is as good in all of {self.aims}, and better in one.", style="dim"
            )
        compared = sum(1 for s in self.standings.values() if s.verdict)
        if compared:
            console.print(
                "Intervals are clustered by image. Verdict: on held-out, against the best reference on selection that "
                f"costs no more (exact), Holm-corrected for {compared} member{'s' if compared > 1 else ''}.",
                style="dim",
            )
        if self.split == "selection":
            console.print("Front and choice go by quality on search and selection together.", style="dim")
        if self.optimism is not None:
            console.print(escape(self.optimism.text + "."))
        for price in prices:
            console.print(escape(price.text + "."))
        console.print(escape(self.recommend().text))

    @property
    def aims(self) -> str:
        """What the search aimed at, in words; empty where that is the usual."""
        if self.objectives == OBJECTIVES:
            return ""
        return ", ".join(f"{'most' if m.maximise else 'least'} {m.name}" for m in self.objectives)

    @property
    def more(self) -> list[Metric]:
        """Objectives that the table has no column for anyway."""
        return [m for m in self.objectives if m.name not in COLUMNS]

    def _row(self, table: Table, m: Member, style: str | None = None) -> None:
        label = str(m.trial)
        table.add_row(
            escape(label),
            figure(m.value("tflops_literature")),
            figure(m.value("tflops_exact")),
            f"{m.value('visual_tokens'):,.0f}",
            percent(m.number("quality", self.split)),
            self._heldout(m),
            *(written(metric, m.measure(metric, self.split)) for metric in self.more),
            self._verdict(m),
            escape(m.policy.describe()),
            style=style,
        )

    def _heldout(self, m: Member) -> str:
        standing = self.standings.get(m.trial)
        x = None if standing is None else standing.quality
        if x is None or x.low is None or x.high is None:
            return percent(m.number("quality", "held-out"))
        return escape(f"{100 * x.value:.1f} % [{100 * x.low:.1f}, {100 * x.high:.1f}]")

    def _verdict(self, m: Member) -> str:
        standing = self.standings.get(m.trial)
        return (
            "" if standing is None or standing.verdict is None else f"{standing.verdict} ({standing.rival})"
        )

    def as_dict(self, m: Member) -> dict[str, Any]:
        """Return a member as JSON data, with its standing on held-out where it was measured there."""
        standing, own = self.standings.get(m.trial), None if m.reference else optimism([m])
        found = m.as_dict() if standing is None else {**m.as_dict(), "standing": standing.as_dict()}
        return found if own is None else {**found, "optimism": own.as_dict()}


def exported(
    path: Path, policy: Policy, why: Recommendation, deploy: str = "hf", how: Sequence[str] = ()
) -> None:
    """Say what was written, why that, and how it is used; what is not recommended is said on stderr, elsewhere.

    Args:
        deploy: the engine that runs it.
        how: lines that set that engine up.
    """
    console.print(f"wrote {escape(str(path))}: {escape(policy.describe())}")
    if why.recommended:
        console.print(escape(why.text))
    if "calibration" in policy.provenance:
        console.print(escape(policy.provenance["calibration"]), style="dim")
    if how:
        console.print(f"\nUse it with {engine(deploy).title}:\n", style="dim")
        for line in how:
            console.print(f"    {line}", markup=False, soft_wrap=True)
    console.print("\nUse it:\n" if not how else "\nUse it with transformers:\n", style="dim")
    console.print(
        f'    policy = autotc.load_policy("{path}")\n'
        "    with autotc.compress(model, policy):\n"
        "        output = model.generate(**inputs)\n",
        markup=False,
    )
    console.print(
        f"Check it on your weights: autotc verify {path} --model FOLDER --data my.jsonl", style="dim"
    )
