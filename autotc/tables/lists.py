"""Lists of what there is, as rows and as tables: `list`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from autotc.catalogue import holds
from autotc.errors import SpecError
from autotc.policy import Policy
from autotc.registry import nearest
from autotc.tables.console import console, grid

if TYPE_CHECKING:
    from autotc.reducer import Reducer

ASIDE = {
    ("reducers", "needs"),
    ("presets", "document"),
    *(("engines", name) for name in ("title", "sources", "without", "without_sources")),
}  # in the data, but too wide for a terminal; `show` prints them


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


def reducer_row(cls: type[Reducer]) -> dict[str, Any]:
    """Return what `autotc list reducers` says of one."""
    return {
        "name": cls.name,
        "sites": list(cls.sites),
        "needs": list(cls.needs),
        "query_aware": cls.query_aware,
        "fidelity": cls.fidelity,
        "source": {"title": cls.source.title, "arxiv": cls.source.arxiv},
        "presets": [p.name for p in cls.presets],
    }


def _reducers() -> list[dict[str, Any]]:
    from autotc.reducer import reducers

    return [reducer_row(cls) for cls in reducers.all()]


def _presets() -> list[dict[str, Any]]:
    from autotc.reducer import reducers

    return [
        {"name": p.name, "reducer": cls.name, "positions": p.positions, "note": p.note}
        for cls in reducers.all()
        for p in cls.presets
    ]


def priced_presets(
    model: str, max_tflops: float | None, convention: str, workload: str, match: str | None = None
) -> list[dict[str, Any]]:
    """Return every preset on a model with both costs: at its published counts, or scaled to a limit.

    Args:
        model: alias, Hugging Face id or folder.
        max_tflops: TFLOP per 1,000 requests; None for the published counts.
        convention: how the limit is counted.
        workload: a profile or `key=value` pairs.
        match: only rows that hold all of these words.

    Raises:
        ModelError, SpecError: the model, the workload or the convention is unknown.
    """
    from autotc.adapter import resolve_model
    from autotc.apply import check
    from autotc.cost import estimate, preset_policy
    from autotc.errors import PolicyError, UnsupportedError
    from autotc.reducer import reducers
    from autotc.workload import parse_workload

    anatomy, load = resolve_model(model).anatomy, parse_workload(workload)
    rows: list[dict[str, Any]] = []
    for cls in reducers.all():
        for preset in cls.presets:
            policy = preset_policy(cls, preset, anatomy, load, max_tflops, convention)
            why = None
            if policy is None:
                placed = preset_policy(cls, preset, anatomy, load, None)
                why = "cannot be placed in this model" if placed is None else "costs more, whatever it keeps"
            else:
                try:
                    check(policy, anatomy)
                except (PolicyError, UnsupportedError) as error:
                    policy, why = None, str(error).partition(". ")[0]
            cost = None if policy is None else estimate(policy, anatomy, load)
            rows.append(
                {
                    "name": preset.name,
                    "reducer": cls.name,
                    "positions": preset.positions if policy is None else policy.positions,
                    "tflops_literature": None if cost is None else round(cost.tflops_literature, 1),
                    "tflops_exact": None if cost is None else round(cost.tflops_exact, 1),
                    "policy": why if policy is None else _brief(policy),
                    "document": None
                    if policy is None
                    else policy.model_dump(mode="json", by_alias=True, exclude_none=True),
                }
            )
    return [row for row in rows if holds(row, match)]


def _brief(policy: Policy) -> str:
    """Return one line on a policy; a recipe of many like stages by its ends."""
    first, last = policy.stages[0], policy.stages[-1]
    alike = all((s.site, s.reducer) == (first.site, first.reducer) for s in policy.stages)
    if len(policy.stages) <= 4 or not alike:
        return policy.describe()
    return (
        f"{first.site}@{first.layer}..{last.layer} {first.reducer} {first.keep:.1%} .. {last.keep:.1%} "
        f"({len(policy.stages)} stages)"
    )


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


def _kernels() -> list[dict[str, Any]]:
    from autotc.kernels import dispatch

    return dispatch.listing()


def _engines() -> list[dict[str, Any]]:
    from autotc.deploy import rows

    return rows()


def listing(what: str, storage: str | None = None, match: str | None = None) -> Any:
    """Return the rows of `autotc list WHAT` that hold every word of `match`, or the policy's JSON Schema.

    Raises:
        SpecError: nothing of that name can be listed.
    """
    if what == "schema":
        return Policy.model_json_schema(by_alias=True)
    sources: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "reducers": _reducers,
        "presets": _presets,
        "models": _models,
        "workloads": _workloads,
        "kernels": _kernels,
        "engines": _engines,
        "studies": lambda: _studies(storage),
    }
    if what not in sources:
        raise SpecError(f"autotc list: unknown {what!r}. {nearest(what, [*sources, 'papers', 'schema'])}")
    return [row for row in sources[what]() if holds(row, match)]


def print_listing(what: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table."""
    if not rows:
        console.print(f"no {what}")
        return
    columns = [name for name in rows[0] if (what, name) not in ASIDE]
    right = {name for name in columns if any(_is_number(row[name]) for row in rows)} | {"presets"}
    table = grid(*columns, left=tuple(name for name in columns if name not in right))
    for row in rows:
        table.add_row(*(escape(plain(name, row[name])) for name in columns))
    console.print(table)
    if what == "engines":
        _print_sources(rows)
    if what == "reducers":
        console.print(
            "[dim]One of them: autotc show fastv. What runs here of each paper: autotc list papers[/]"
        )


def _print_sources(rows: Sequence[dict[str, Any]]) -> None:
    """Print what each engine cannot do, and where all of this was read."""
    for name in dict.fromkeys(row["engine"] for row in rows):
        mine = [row for row in rows if row["engine"] == name]
        sources = dict.fromkeys([s for row in mine for s in row["sources"]] + mine[0]["without_sources"])
        if sources:
            console.print(f"[bold]{escape(mine[0]['title'])}[/]: {escape(mine[0]['without'])}")
            for source in sources:
                console.print(f"  {escape(source)}", style="dim", soft_wrap=True)
    console.print("Read in September 2026, not run on these engines. Only what a source shows is allowed.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def plain(column: str, value: Any) -> str:
    """Write one value as a cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column == "presets":
        return str(len(value))
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return f"arXiv {value['arxiv']}" if value.get("arxiv") else str(value.get("title", "-"))
    if column.startswith("tflops") and value is not None:
        return f"{value:,.1f}"
    if column == "parameters":
        return f"{value / 1e9:.2f} B"
    return "-" if value is None else str(value)
