"""What the commands about devices print."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from autotc.tables.console import console, figure, grid


def kernels(gpu: str, rates: Mapping[str, float], results: Sequence[Any]) -> None:
    """Print the times of the operations, a case a block."""
    table = grid("operation", "case", "type", "by", "median", "p10", "p90", "of_the_limit", "note",
                 left=("operation", "case", "type", "by", "note"))  # fmt: skip
    last = ""
    for r in results:
        case = f"{r.operation} {r.case}"
        names = (r.operation, r.case, r.dtype) if case != last else ("", "", "")
        last = case
        times = [_ms(t) for t in (r.median_ms, r.p10_ms, r.p90_ms)]
        share = "-" if r.share is None else f"{100 * r.share:.0f} % of {r.limit}"
        table.add_row(*map(escape, (*names, r.provider, *times, share, r.note)))
    console.print(table)
    copy, matmul = rates["copy_bytes_per_s"] / 1e9, rates["matmul_flops_per_s"] / 1e12
    console.print(
        f"[dim]{gpu}: copies {figure(copy)} GB/s (read plus written), matmul {figure(matmul)} TFLOP/s[/]"
    )


def table(path: Path, data: Mapping[str, Any], names: Sequence[str]) -> None:
    """Print what was measured of a device."""
    for name in names:
        entry = data["models"][name]
        console.print(f"[bold]{escape(name)}[/] ({escape(entry['on'])}) on {escape(data['gpu'])}, median ms")
        for what, label in (
            ("layer_ms", "decoder layer, by tokens and batch"),
            ("tower_ms", "tower and projector, by an image's tokens and images"),
            ("decode_ms", "one decoding step, by context and batch"),
        ):
            points = entry[what]
            batches = sorted({p[1] for p in points})
            found = {(p[0], p[1]): p[2] for p in points}
            rows = grid(label, *(f"{b} at once" for b in batches), left=(label,))
            for size in sorted({p[0] for p in points}):
                rows.add_row(f"{size:,}", *(f"{found[size, b]:.3g}" for b in batches))
            console.print(rows)
        if entry["extended"]:
            console.print(
                f"[dim]{entry['extended']} large points were extended in proportion to the batch[/]"
            )
        times = entry["choose_ms"]
        slow = ", ".join(f"{n} {times[n]:.3g} ms" for n in sorted(times, key=lambda n: -times[n])[:5])
        at, middle = entry["choose_at"], statistics.median(times.values())
        console.print(
            f"choosing among {at['tokens']} tokens, batch {at['batch']}: median {middle:.3g} ms over {len(times)} "
            f"methods; slowest {slow}"
        )
        whole = entry["prefill"]
        if (whole["tokens"], whole["batch"]) == (at["tokens"], at["batch"]):
            above = [
                f"{n} {100 * t / whole['ms']:.1f} %"
                for n, t in sorted(times.items())
                if t > 0.02 * whole["ms"]
            ]
            console.print(
                f"that is {100 * middle / whole['ms']:.2f} % of the uncompressed prefill ({whole['ms']:.3g} ms); above "
                f"2 %: {', '.join(above) or 'none'}"
            )
    console.print(f"Table: {path}")


def speed(result: Mapping[str, Any]) -> None:
    """Print speed-ups, a batch a block."""
    table = grid("batch", "policy", "prefill_ms", "speed-up", "FLOPs_ratio", "share", "answer_ms", "speed-up ",
                 "predicted", left=("batch", "policy"))  # fmt: skip
    last, errors, kernels = "", [], set()
    for row in result["rows"]:
        batch = row["batch"] if row["batch"] != last else ""
        last = row["batch"]
        if "error" in row:
            table.add_row(batch, escape(row["policy"]), *["-"] * 7)
            errors.append(f"batch {row['batch']}, {row['policy']}: {row['error']}")
            continue
        kernels.update(row["kernels"])
        off = f"{100 * row['prediction_error']:+.1f} %" if "prediction_error" in row else "-"
        table.add_row(
            batch, escape(row["policy"]), _ms(row["prefill"]["median_ms"]), _times(row.get("prefill_speedup")),
            _times(row["flops_ratio"]), f"{100 * row['share_of_ratio']:.0f} %" if "share_of_ratio" in row else "-",
            _ms(row["end_to_end"]["median_ms"]), _times(row.get("end_to_end_speedup")), off,
        )  # fmt: skip
    console.print(table)
    for line in errors:
        console.print(f"[dim]{escape(line)}[/]")
    console.print(f"[dim]{escape(result['gpu'])}, {escape(result['on'])}; medians[/]")
    if kernels:
        console.print(f"[dim]attention kernels seen: {escape(', '.join(sorted(kernels)))}[/]")
    for what, name in (("prefill", "prediction_error"), ("peak memory", "memory_error")):
        misses = [abs(r[name]) for r in result["rows"] if name in r]
        if misses:
            middle, worst = 100 * statistics.median(misses), 100 * max(misses)
            console.print(f"prediction of the {what}: median error {middle:.1f} %, worst {worst:.1f} %")


def batches(result: Mapping[str, Any]) -> None:
    """Print simulated throughput against what a device answered."""
    table = grid(
        "batch", "policy", "measured", "p10", "p90", "runs", "simulated", "error", left=("batch", "policy")
    )
    last = None
    for row in result["rows"]:
        batch = "" if row["batch"] == last else str(row["batch"])
        last = row["batch"]
        if "failed" in row:
            table.add_row(batch, escape(row["policy"]), *["-"] * 6)
            continue
        seen = row["measured"]
        table.add_row(
            batch, escape(row["policy"]), *(figure(seen[k]) for k in ("requests_per_s", "p10", "p90")), str(seen["n"]),
            figure(row["simulated"]["requests_per_s"]), f"{100 * row['error']:+.1f} %",
        )  # fmt: skip
    console.print(table)
    for row in result["rows"]:
        if "failed" in row:
            console.print(f"[dim]batch {row['batch']}, {escape(row['policy'])}: {escape(row['failed'])}[/]")
    console.print(f"[dim]requests a second; {escape(result['gpu'])}, {escape(result['on'])}[/]")
    if result["worst"] is not None:
        judged = "within" if result["met"] else "not all within"
        console.print(f"worst error {100 * result['worst']:.1f} %: {judged} {100 * result['bar']:.0f} %")


def serving(model: str, workload: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what a GPU would serve."""
    limits = rows[0]["limits"]
    console.print(f"[bold]{escape(model)}[/], {escape(workload)}; simulated on {escape(rows[0]['rests_on'])}")
    table = grid("policy", "requests/s", "against", "without_limits", f"TTFT_p{limits['percentile']:g}",
                 f"TPOT_p{limits['percentile']:g}", "decoding", "room_for", "cost/million", "J/request",
                 left=("policy",))  # fmt: skip
    base = rows[0]["requests_per_s"]
    for row in rows:
        at = row["at_that_rate"]
        cost, joules = row["cost_per_million"], at["joules"]
        table.add_row(
            escape(row["policy"]), figure(row["requests_per_s"]),
            f"{row['requests_per_s'] / base:.2f}x" if base else "-", figure(row["requests_per_s_without_limits"]),
            f"{at['ttft_ms']:.0f} ms", f"{at['tpot_ms']:.1f} ms", f"{at['batch']:.1f}", f"{row['cache_requests']}",
            "-" if cost is None else figure(cost), "unknown" if joules is None else figure(joules),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"[dim]limits: first token within {limits['ttft_ms']:g} ms, later ones within {limits['tpot_ms']:g} ms, at the "
        f"{limits['percentile']:g}th percentile[/]"
    )
    for row in rows:
        if not row["within"]:
            console.print(f"{escape(row['policy'])}: even a lone request waits longer than the limits")


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
