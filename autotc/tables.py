"""What the command line prints: tables and plain facts. No figure is computed here."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from autotc.errors import SpecError
from autotc.export import Best, Member, choose, document, members
from autotc.export import chart as front_chart
from autotc.export import front as pareto_front
from autotc.policy import Number, Policy
from autotc.registry import nearest

if TYPE_CHECKING:
    from autotc.anatomy import Anatomy
    from autotc.charts import FrontChart
    from autotc.cost import Cost
    from autotc.store import Store
    from autotc.verify import Measurement, Verdict
    from autotc.workload import Workload

console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 160)
QUALITY = ("quality", "worst_group", "grounded", "agreement", "kl", "next_question")


def percent(number: Number | None) -> str:
    """Write a share as '93.1 ± 0.8 %'; a dash where it was not measured."""
    if number is None:
        return "-"
    error = "" if number.stderr is None else f" ± {100 * number.stderr:.1f}"
    return f"{100 * number.value:.1f}{error} %"


def figure(value: float) -> str:
    """Write a cost with as many decimals as its size deserves."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cost(anatomy: Anatomy, load: Workload, policy: Policy | None, found: Cost) -> None:
    """Print an estimate by part."""
    console.print(f"[bold]{escape(anatomy.id)}[/]  {load.describe()}")
    console.print(f"policy: {policy.describe() if policy else 'uncompressed'}  (all figures are estimates)")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("unit", style="dim")
    table.add_row("FLOPs, literature convention", f"{found.tflops_literature:,.1f}", "TFLOP/1000 requests")
    table.add_row("FLOPs, exact convention", f"{found.tflops_exact:,.1f}", "TFLOP/1000 requests")
    for part, value in found.parts.items():
        table.add_row(f"  of it {part}", f"{value:,.1f}", "TFLOP/1000 requests")
    table.add_row("peak memory", f"{found.memory_gib:,.2f}", "GiB")
    table.add_row(
        "visual tokens, mean over decoder layers", f"{found.visual_tokens:,.1f}", "tokens a request"
    )
    console.print(table)


def _models() -> list[dict[str, Any]]:
    from autotc.adapter import adapters, anatomy
    from autotc.proxies import proxy_folder

    rows = []
    for adapter in adapters.all():
        for alias, entry in adapter.aliases.items():
            numbers = anatomy(alias)
            rows.append(
                {
                    "alias": alias,
                    "id": entry["id"],
                    "family": adapter.name,
                    "decoder_layers": numbers.decoder.layers,
                    "parameters": numbers.parameters,
                    "proxy": proxy_folder(adapter.name) is not None,
                }
            )
    return rows


def _reducers() -> list[dict[str, Any]]:
    from autotc.reducer import reducers

    return [
        {
            "name": cls.name,
            "sites": list(cls.sites),
            "needs": list(cls.needs),
            "query_aware": cls.query_aware,
            "fidelity": cls.fidelity,
            "source": {"title": cls.source.title, "arxiv": cls.source.arxiv},
            "presets": [p.name for p in cls.presets],
        }
        for cls in reducers.all()
    ]


def _presets() -> list[dict[str, Any]]:
    from autotc.reducer import reducers

    return [
        {"name": p.name, "reducer": cls.name, "positions": p.positions, "note": p.note}
        for cls in reducers.all()
        for p in cls.presets
    ]


def _studies(storage: str | None) -> list[dict[str, Any]]:
    from autotc.store import Store

    store = Store(storage)
    return [
        {
            "name": row.name,
            "state": row.state,
            "evaluated_on": row.evaluated_on,
            "created": row.created.isoformat(timespec="seconds"),
            "trials": len(store.trials(row.name, role="trial", state="complete")),
        }
        for row in store.studies()
    ]


def _workloads() -> list[dict[str, Any]]:
    from autotc.workload import PROFILES

    return [{"name": name, "shape": load.describe()} for name, load in PROFILES.items()]


def listing(what: str, storage: str | None = None) -> Any:
    """Return the rows of `autotc list WHAT`, or the JSON Schema of the policy.

    Raises:
        SpecError: nothing of that name can be listed.
    """
    if what == "schema":
        return Policy.model_json_schema(by_alias=True)
    if what == "studies":
        return _studies(storage)
    sources: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "reducers": _reducers,
        "presets": _presets,
        "models": _models,
        "workloads": _workloads,
    }
    if what not in sources:
        raise SpecError(f"autotc list: unknown {what!r}. {nearest(what, [*sources, 'studies', 'schema'])}")
    return sources[what]()


def print_listing(what: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table."""
    if not rows:
        console.print(f"no {what}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in rows[0]:
        numeric = isinstance(rows[0][column], int | float) and not isinstance(rows[0][column], bool)
        table.add_column(column.replace("_", " "), overflow="fold", justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(escape(_plain(column, value)) for column, value in row.items()))
    console.print(table)


def _plain(column: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return f"arXiv {value['arxiv']}" if value.get("arxiv") else str(value.get("title", "-"))
    if column == "parameters":
        return f"{value / 1e9:.2f} B"
    return "-" if value is None else str(value)


def reducer_facts(name: str) -> dict[str, Any]:
    """Return what a reducer is: docstring, parameters with ranges, capabilities, presets.

    Raises:
        SpecError: unknown reducer, with the nearest names.
    """
    from autotc.reducer import reducers

    cls = reducers.get(name)
    row = next(r for r in _reducers() if r["name"] == name)
    parameters = [
        {"name": f.name, "default": f.default, **{k: v for k, v in f.metadata.items() if v is not None}}
        for f in fields(cls)
    ]
    presets = [{"name": p.name, "note": p.note, "positions": p.positions} for p in cls.presets]
    return {
        **row,
        "title": cls.title,
        "text": inspect.cleandoc(cls.__doc__ or ""),
        "adaptive": cls.adaptive,
        "parameters": parameters,
        "presets": presets,
    }


def trial_facts(number: str, study: str, storage: str | None) -> dict[str, Any]:
    """Return one trial of a study: policy, figures, what was asked and kept.

    Raises:
        SpecError: no such study or trial.
    """
    from autotc.store import Store

    found = {str(m.trial): m for m in members(Store(storage), study)}
    if number not in found:
        raise SpecError(f"{study}: no finished trial {number!r}. {nearest(number, found)}")
    return found[number].as_dict()


def print_facts(facts: dict[str, Any]) -> None:
    """Print facts as 'name  value' lines, long texts as they are."""
    for name, value in facts.items():
        if isinstance(value, str) and "\n" in value:
            console.print(f"\n{escape(value)}\n")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            console.print(f"[dim]{name}[/]")
            print_listing(name, [{k: v for k, v in item.items() if k in value[0]} for item in value])
        else:
            console.print(f"[dim]{name.replace('_', ' '):14}[/] {escape(_plain(name, value))}")


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

    @staticmethod
    def read(store: Store, study: str, limit: float | None, convention: str | None) -> FrontView:
        """Read a study and compute its front; the limit and convention default to those it was searched under.

        Raises:
            SpecError: no such study, or an unknown convention.
        """
        everything = members(store, study)
        row = store.study(study)
        assert row is not None  # members() has refused an unknown study
        convention = convention or row.spec.get("flops_convention", "literature")
        if convention not in ("literature", "exact"):
            raise SpecError(f"--flops-convention: {convention!r} is not literature or exact")
        limit = limit if limit is not None else row.spec.get("max_tflops")
        chosen, split = pareto_front(everything, limit, convention)
        return FrontView(
            study,
            row.evaluated_on,
            row.spec.get("workload") or {},
            limit,
            convention,
            everything,
            chosen,
            split,
        )

    @property
    def references(self) -> list[Member]:
        """References and presets, cheapest first."""
        return sorted((m for m in self.everything if m.reference), key=lambda m: m.value("tflops_exact"))

    def chart(self) -> FrontChart:
        """Return the picture."""
        return front_chart(self.everything, self.front, self.split, self.study, self.caption())

    def caption(self) -> str:
        """Return one line that says what the figures are."""
        limit = f"limit {self.limit:g} TFLOP/1000 ({self.convention})" if self.limit else "no limit"
        return f"{limit}; quality measured on {self.evaluated_on}; cost estimated for the full model"

    def policy(self, best: str, trial: int | None) -> Policy:
        """Return the chosen policy as it leaves.

        Raises:
            SpecError: no such trial, or an unknown way to choose.
        """
        if trial is not None:
            chosen = next((m for m in self.everything if m.trial == trial), None)
            if chosen is None:
                raise SpecError(f"{self.study}: no finished trial {trial}. See: autotc front {self.study}")
        elif best not in ("quality", "knee", "cheapest"):
            raise SpecError(f"--best: {best!r} is not quality, knee or cheapest")
        else:
            chosen = choose(self.front, self.split, cast(Best, best))
        return document(chosen, self.study, self.workload)

    def print(self) -> None:
        """Print the front, its references and what to type next."""
        console.print(f"[bold]{escape(self.study)}[/]  {self.caption()}")
        if not self.front:
            console.print("No finished trial is within the limit yet.")
            return
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in (
            "trial",
            "TFLOP lit.",
            "TFLOP exact",
            "tokens",
            f"quality ({self.split})",
            "quality (held-out)",
        ):
            table.add_column(name, justify="right")
        table.add_column("policy", overflow="fold")
        for m in self.front:
            self._row(table, m)
        near = self.references
        if near:
            table.add_section()
            for m in near:
                self._row(table, m, style="dim")
        console.print(table)

    def _row(self, table: Table, m: Member, style: str | None = None) -> None:
        label = str(m.trial)
        table.add_row(
            escape(label),
            figure(m.value("tflops_literature")),
            figure(m.value("tflops_exact")),
            f"{m.value('visual_tokens'):,.0f}",
            percent(m.number("quality", self.split)),
            percent(m.number("quality", "held-out")),
            escape(m.policy.describe()),
            style=style,
        )


def exported(path: Path, policy: Policy) -> None:
    """Say what was written and how it is used."""
    console.print(f"wrote {escape(str(path))}: {escape(policy.describe())}")
    console.print("\nUse it:\n", style="dim")
    console.print(
        f'    policy = autotc.load_policy("{path}")\n'
        "    with autotc.compress(model, policy):\n"
        "        output = model.generate(**inputs)\n",
        markup=False,
    )
    console.print(
        f"Check it on your weights: autotc verify {path} --model FOLDER --data my.jsonl", style="dim"
    )


def measurement(measured: Measurement) -> None:
    """Print a policy beside the uncompressed model."""
    console.print(escape(measured.policy.describe()))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("figure", "policy", "uncompressed", "n", "unit"):
        table.add_column(name, justify="left" if name in ("figure", "unit") else "right")
    full = {n.name: n for n in measured.full}
    for number in measured.numbers:
        other = full.get(number.name)
        written = (
            (lambda n: "-" if n is None else f"{n.value:.3f} ± {n.stderr or 0:.3f}")
            if number.name == "kl"
            else percent
        )
        table.add_row(
            number.name.replace("_", " "), written(number), written(other), str(number.n or "-"), number.unit
        )
    console.print(table)
    error = "" if measured.stderr is None else f" ± {100 * measured.stderr:.1f}"
    console.print(
        f"difference to uncompressed: {100 * measured.difference:+.1f}{error} points of {measured.metric}, paired"
    )
    if measured.numbers:
        console.print(f"[dim]measured on {measured.numbers[0].on}, {measured.numbers[0].split} split[/]")
    if measured.metric == "agreement":
        console.print(
            "The data has no answers: quality is agreement with the uncompressed model, not correctness."
        )
    if measured.skipped:
        console.print(f"{measured.skipped} lines with unreadable images were left out.")


def verdict(result: Verdict) -> None:
    """Print whether a policy passed."""
    measurement(result.measured)
    low = (
        "unknown (one image only)"
        if result.measured.low is None
        else f"{100 * result.measured.low:+.1f} points"
    )
    if result.passed:
        console.print(
            f"[bold]verified[/]: the loss is within {100 * result.max_drop:g} points (95 % bound {low}); "
            f"{result.path} says so now"
        )
    else:
        console.print(
            f"[bold]not verified[/]: the 95 % bound of the difference is {low}, "
            f"accepted are {-100 * result.max_drop:g} points. "
            "More --examples narrow it; a policy that keeps more loses less"
        )


def bench(result: dict[str, Any]) -> None:
    """Print the ratio of evaluations with and without reuse."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("first site", "policies", "without reuse", "with reuse", "ratio"):
        table.add_column(name, justify="left" if name == "first site" else "right")
    for row in (*result["sites"], result["overall"]):
        table.add_row(
            row["site"],
            str(row["policies"]),
            f"{row['plain_s']:.2f} s",
            f"{row['reuse_s']:.2f} s",
            f"{row['ratio']:.2f} x",
        )
    console.print(table)
    console.print(
        f"[dim]{result['examples']} examples a policy on {result['on']}, one process, {result['threads']} threads[/]"
    )
