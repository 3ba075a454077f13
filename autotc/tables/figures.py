"""What a policy costs and does, as tables: `cost`, `eval`, `verify` and `bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from autotc._outcomes import LEAST_IN_GROUP
from autotc.calibration import named
from autotc.tables.console import console, grid, percent

if TYPE_CHECKING:
    from autotc._freerun import Written
    from autotc.anatomy import Anatomy
    from autotc.breakdown import Breakdown
    from autotc.cost import Cost
    from autotc.policy import Policy
    from autotc.statistics import Interval
    from autotc.verify import Measurement, Verdict
    from autotc.workload import Workload


def cost(anatomy: Anatomy, load: Workload, policy: Policy | None, found: Cost) -> None:
    """Print an estimate by part."""
    console.print(f"[bold]{escape(anatomy.id)}[/]  {load.describe()}")
    console.print(f"policy: {policy.describe() if policy else 'uncompressed'}  (all figures are estimates)")
    table = grid("figure", "value", "unit", left=("figure", "unit"))
    table.add_row("FLOPs, literature convention", f"{found.tflops_literature:,.1f}", "TFLOP/1000 requests")
    table.add_row("FLOPs, exact convention", f"{found.tflops_exact:,.1f}", "TFLOP/1000 requests")
    for part, value in found.parts.items():
        table.add_row(f"  of it {part}", f"{value:,.1f}", "TFLOP/1000 requests")
    table.add_row("peak memory", f"{found.memory_gib:,.2f}", "GiB")
    table.add_row(
        "visual tokens, mean over decoder layers", f"{found.visual_tokens:,.1f}", "tokens a request"
    )
    console.print(table)


def measurement(measured: Measurement) -> None:
    """Print a policy beside the uncompressed model."""
    console.print(escape(measured.policy.describe()))
    table = grid("figure", "policy", "uncompressed", "n", "unit", left=("figure", "unit"))
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
    if measured.policy.stages:
        for line in hidden(measured.hidden):
            console.print(escape(line))
    if measured.written is not None:
        console.print(escape(written_freely(measured.written)))
    if measured.numbers:
        number = measured.numbers[0]
        console.print(f"[dim]measured on {named(number.on)}, {number.split} split[/]")
    if measured.metric == "agreement":
        console.print(
            "The data has no answers: quality is agreement with the uncompressed model, not correctness."
        )
    if measured.skipped:
        console.print(f"{measured.skipped} lines with unreadable images were left out.")


def hidden(found: Breakdown) -> list[str]:
    """Return what the average hides, one line a subject."""
    lines = [
        f"flips: {found.flips.right_to_wrong} right to wrong, {found.flips.wrong_to_right} wrong to right, "
        f"of {found.flips.n} (p {found.flips.p:.2g})"
    ]
    if found.worst is not None:
        group, drop, stderr, n = found.worst
        count = sum(g.n >= LEAST_IN_GROUP for g in found.groups)
        lines.append(
            f"worst question group: {group}, {_points(-drop, stderr)} to uncompressed (n {n}), the lowest of {count}"
        )
    if found.next_question is not None:
        after = found.next_question
        line = f"next question on the same cache: {_share(after.quality)}"
        line += f", {_difference(after.less_own)} to its own cache"
        if after.less_uncompressed is not None:
            line += f", {_difference(after.less_uncompressed)} to uncompressed"
        lines.append(f"{line} (n {after.quality.n})")
    lines += [
        f"answers of {g.group}: {100 * g.quality:.1f} %, "
        f"{_points(-g.drop.value, g.drop.stderr)} to uncompressed (n {g.n})"
        for g in found.answer_length
    ]
    return lines


def written_freely(found: Written) -> str:
    """Return one line on the answers that the model wrote itself."""
    right, same, forced = (found.figure(name) for name in ("correct", "same", "forced"))
    parts = [f"{_share(right)} right"] if right is not None else []
    if same is not None and forced is not None:
        parts.append(
            f"{_share(same)} exactly as uncompressed (teacher-forced agreement there {_share(forced)})"
        )
    return f"written freely, n {len(found)}: {', '.join(parts)}"


def _points(value: float, stderr: float | None) -> str:
    return f"{100 * value + 0.0:+.1f}{'' if stderr is None else f' ± {100 * stderr:.1f}'} points"


def _share(found: Interval) -> str:
    return f"{100 * found.value:.1f}{'' if found.stderr is None else f' ± {100 * found.stderr:.1f}'} %"


def _difference(found: Interval) -> str:
    return _points(found.value, found.stderr)


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
    table = grid("first site", "policies", "without reuse", "with reuse", "ratio", left=("first site",))
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


def reducer_times(result: dict[str, Any]) -> None:
    """Print each reducer's own time, slowest first."""
    table = grid("reducer", "own time", "ratio", "charged", "what it does", left=("reducer", "what it does"))
    for row in result["reducers"]:
        table.add_row(
            row["name"],
            f"{row['ms']:.1f} ± {row['spread_ms']:.1f} ms",
            f"{row['ratio']:.2f} x",
            f"{row['gflops']:.2f} GFLOP",
            row["why"],
        )
    console.print(table)
    against = result["alternative"]
    console.print(
        f"[dim]Medians with half the distance of the quartiles; ratios are to a {against['name']} in the same run "
        f"({against['ms']:.1f} ms, {against['gflops']:.2f} GFLOP); {result['threads']} thread of torch "
        f"{result['torch']} on the CPU.[/]"
    )
