"""The page over the results of `bench store`, `bench api` and the comparison of one worker with four."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotc.environment import described
from autotc.export import write_text

HEAD = """# The service at scale

Made by these commands, each of which writes its JSON here and this page anew; the second starts a PostgreSQL server of
its own:

    autotc bench store --out studies/service
    python -m tests.with_postgres autotc bench store --storage {url} --out studies/service
    autotc bench api --out studies/service
    python -m tests.service.team_quality --out studies/service

Smaller runs (`--trials`, `--seconds`, `--rate`, `--seeds`) write here too: the headings say what was run.
Times are of the wall clock, p50 / p99; *cpu* is the median processor time of the asking process, which other load on
the machine changes little. A *bar* is what the median should not exceed, over HTTP the p99. Where the load average is
above the number of cores, other programs had most of the machine.
"""
STEPS = """| ms | {sizes} | cpu, {last} : {first} |
|---|{rule}
"""


def write(folder: Path, name: str, found: Mapping[str, Any]) -> None:
    """Keep a result in a folder, and write the folder's page from all that are there.

    Raises:
        SpecError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.json", json.dumps(found, indent=1) + "\n")
    stores = [json.loads(p.read_text()) for p in sorted(folder.glob("store-*.json"))]
    parts = [HEAD, *map(_store, stores)]
    for file, section in (("api", _api), ("team", _team)):
        path = folder / f"{file}.json"
        parts += [section(json.loads(path.read_text()))] if path.exists() else []
    write_text(folder / "README.md", "\n".join(parts))


def steps(found: Mapping[str, Any]) -> str:
    """Return the table of a run of `bench store`: each step by stored trials, and the largest study by the smallest."""
    sizes = sorted({s["trials"] for s in found["steps"]})
    by = {(s["step"], s["trials"]): s for s in found["steps"]}
    first, last = f"{sizes[0]:,}", f"{sizes[-1]:,}"
    columns = " | ".join(f"{n:,} trials" for n in sizes)
    lines = [STEPS.format(sizes=columns, first=first, last=last, rule="---:|" * (len(sizes) + 1))]
    for what in dict.fromkeys(s["step"] for s in found["steps"]):
        row = [by[what, n] for n in sizes]
        ratio = row[-1]["cpu_s"] / max(row[0]["cpu_s"], 1e-9)
        lines.append(f"| {what} | {' | '.join(map(_times, row))} | {ratio:,.1f} |\n")
    return "".join(lines)


def _times(step: Mapping[str, Any]) -> str:
    p50, p99, cpu = (_ms(step[k]) for k in ("p50_s", "p99_s", "cpu_s"))
    wall = p50 if step["n"] == 1 else f"{p50} / {p99}"
    bar = "" if step["bar_s"] is None else f", {bar_of(step['p50_s'], step['bar_s'])}"
    return f"{wall}; cpu {cpu}{bar}"


def bar_of(seconds: float, bar_s: float) -> str:
    """Return a bar in milliseconds, and whether it was missed."""
    return f"bar {_ms(bar_s)}{' missed' if seconds > bar_s else ''}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.01 else f"{1000 * seconds:.1f}"


def _conditions(found: Mapping[str, Any]) -> str:
    load = found["load"]
    average = f"{load['before'][0]:.1f} before and {load['after'][0]:.1f} after"
    return f"{described(found['environment'])}; load average {average}."


def _store(found: Mapping[str, Any]) -> str:
    largest = max(s["trials"] for s in found["steps"])
    return (
        f"## {found['database']}: {found['trials']:,} trials of {found['parameters']} parameters\n\n"
        f"One study of {largest:,} trials, one of a tenth and one of a hundredth, ten of 60; written in "
        f"{found['fill_s']:,.0f} s. The process that did all this took up to {found['peak_gib']:.1f} GiB.\n"
        f"{_conditions(found)}\n\n{steps(found)}"
    )


def _api(found: Mapping[str, Any]) -> str:
    used = found["server_cpu_s"]
    cpu = "" if used is None else f", {_ms(used)} ms of the server's processor time each"
    rows = "".join(
        f"| `{p['path']}` | {p['requests']:,} | {_ms(p['p50_s'])} | {_ms(p['p99_s'])} |\n"
        for p in found["paths"]
    )
    return (
        f"## HTTP, {found['rate']:g} requests a second for {found['seconds']:g} s\n\n"
        f"Over loopback, SQLite, a study of {found['trials']:,} trials and 100 jobs; server and clients on the same "
        f"machine. Times count from when a request was due.\n{_conditions(found)}\n\n"
        f"{found['requests']:,} requests, {found['errors']} errors, p50 {_ms(found['p50_s'])} ms, p99 "
        f"{_ms(found['p99_s'])} ms ({bar_of(found['p99_s'], found['bar_s'])}; it is for 50 a second over 120 s), worst "
        f"{_ms(found['worst_s'])} ms{cpu}. The slowest of the first requests after the start, which reads the whole "
        f"study, took {_ms(found['first_s'])} ms.\n\n"
        f"| path | requests | p50, ms | p99, ms |\n|---|---:|---:|---:|\n{rows}"
    )


def _team(found: Mapping[str, Any]) -> str:
    four = [r for r in found["runs"] if r["workers"] == 4]
    proposals = sum(r["trials"] for r in four)
    same = proposals - sum(r["different"] for r in four)
    errors = "one seed" if found["stderr"] is None else f"± {found['stderr']:.4f}, paired, standard error"
    spread = (
        ""
        if found["stderr"] is None
        else f" Over seeds one worker alone varies by {found['spread_of_one']:.4f}."
    )
    return (
        f"## One worker with 100 trials, four with 25 each\n\n"
        f"On an evaluator whose truth is known, {len(four)} seeds: the true front covers {found['one']:.4f} of the "
        f"uncompressed model's rectangle with one worker and {found['four']:.4f} with four, a difference of "
        f"{found['difference']:+.4f} ({errors}).{spread} Of the {proposals:,} proposals of four workers {same} repeat "
        f"a policy.\n{_conditions(found)}\n"
    )
