"""How fast the operations are: against the reference, a compiled or captured one, and what the card can do at most."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from autotc.kernels import dispatch
from autotc.kernels.cases import Case, cases

_CAPTURABLE = (
    "attention_received",
    "bipartite_merge",
    "gather_rows",
)  # references that never wait for the device
TRITON = ("greedy_select", "attention_received", "bipartite_merge", "gather_rows", "sum_rows")
WIDTH = 1024  # of the features from which a choice starts
Timed = Callable[[Callable[[], Any]], tuple[float, float, float]]  # median, p10, p90 in ms


@dataclass(frozen=True)
class Result:
    """One provider on one case.

    Args:
        operation, case, dtype: what.
        provider: cuda, reference, compiled (torch.compile), captured (the reference as a CUDA graph), triton, flash
            (one flash-attention forward of the same shape, for comparison), or cuda, from features (similarities
            included).
        median_ms, p10_ms, p90_ms: of repeated runs; None where it did not run, `note` says why.
        limit: what bounds it: copy bandwidth or matmul rate.
        share: of that limit, None where neither bounds it.
        gpu, torch, time: where and when.
    """

    operation: str
    case: str
    dtype: str
    provider: str
    median_ms: float | None
    p10_ms: float | None
    p90_ms: float | None
    limit: str
    share: float | None
    note: str
    gpu: str
    torch: str
    time: str


def run(
    device: torch.device,
    gpu: str,
    timed: Timed,
    captured: Callable[[Callable[[], Any]], Callable[[], Any] | None],
    rates: dict[str, float],
    *,
    only: Sequence[str] = (),
    large: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Result]:
    """Time every operation on its cases, what takes longest to prepare (the compiler) last.

    Args:
        device: of the inputs; on a CPU there is only the reference.
        gpu: its name, kept with every figure.
        timed: times work.
        captured: makes work a CUDA graph, None where it cannot.
        rates: `copy_bytes_per_s` and `matmul_flops_per_s` as measured in this run.
        only: operations; all by default.
        large: time the large cases (else the small ones, to try the command out).
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    chosen = [c for c in cases(large=True) if c.large == large and (not only or c.operation in only)]
    for providers in (_providers, _compiled):
        for case in chosen:
            dtype = torch.bfloat16 if case.typed and device.type == "cuda" else torch.float32
            args = case.make(device, dtype)
            for provider, prepare, note in providers(case, args, captured):
                say(f"{case.operation}, {case.name}: {provider}")
                times: tuple[float | None, float | None, float | None] = (None, None, None)
                try:
                    work = None if prepare is None else prepare()
                    times = times if work is None else timed(work)
                    note = note if work or prepare is None else "the graph could not be captured"
                except (
                    Exception
                ) as error:  # whatever a compiler or the driver says: one line, and the others go on
                    note = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
                limit, share = _share(case, args, times[0], rates)
                name = str(dtype).removeprefix("torch.")
                where = (gpu, torch.__version__, now)
                yield Result(case.operation, case.name, name, provider, *times, limit, share, note, *where)


Prepared = tuple[str, Callable[[], Callable[[], Any] | None] | None, str]
"""A provider, what makes the work that is timed (None: it has none, and the note says why), and a note."""


def _providers(
    case: Case, args: tuple[Any, ...], captured: Callable[[Callable[[], Any]], Callable[[], Any] | None]
) -> list[Prepared]:
    reference = dispatch.OPERATIONS[case.operation]
    first = args[0] if isinstance(args[0], Tensor) else args[0][0]
    out: list[Prepared] = []
    reason = dispatch.why_not(first)
    if reason is None:
        from autotc.kernels import cuda

        mine = getattr(cuda, case.operation)
        out.append(("cuda", lambda: lambda: mine(*args), ""))
        if case.operation == "greedy_select":
            out.append(("cuda, from features", lambda: _from_features(mine, args), f"width {WIDTH}"))
    else:
        out.append(("cuda", None, reason))
    if first.is_cuda and case.operation == "attention_received":
        q, k = args[:2]
        flash = torch.nn.functional.scaled_dot_product_attention
        out.append(("flash", lambda: lambda: flash(q, k, k), "one attention forward of the same shape"))
    if first.is_cuda and case.operation in TRITON:
        out.append(("triton", lambda: _triton(case, args), ""))
    if first.is_cuda:
        loop = _loop(case, args)
        if loop is not None or case.operation in _CAPTURABLE:
            out.append(("captured", lambda: captured(loop or (lambda: reference(*args))), ""))
        else:
            out.append(("captured", None, "it asks the device for numbers: no graph can be captured"))
    out.append(("reference", lambda: lambda: reference(*args), ""))
    return out


def _triton(case: Case, args: tuple[Any, ...]) -> Callable[[], Any]:
    work = getattr(importlib.import_module("autotc.kernels._triton"), case.operation)
    return lambda: work(*args)


def _compiled(case: Case, args: tuple[Any, ...], captured: Any) -> list[Prepared]:
    first = args[0] if isinstance(args[0], Tensor) else args[0][0]
    if not first.is_cuda:
        return []
    if case.operation.startswith("greedy"):
        return [("compiled", None, "a loop of hundreds of steps: the compiler would write all of them out")]
    compiled = torch.compile(dispatch.OPERATIONS[case.operation], dynamic=False)
    return [("compiled", lambda: lambda: compiled(*args), "")]


def _from_features(select: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], Any]:
    """Return the whole of a choice: cosine distances of features of a width, then the picks."""
    distance, count, valid = args[:3]
    shape = (*distance.shape[:2], WIDTH)
    features = torch.randn(shape, device=distance.device, dtype=torch.bfloat16)

    def work() -> Any:
        unit = torch.nn.functional.normalize(features.float(), dim=-1).to(features.dtype)
        return select(1 - unit @ unit.transpose(1, 2), count, valid)

    return work


def _loop(case: Case, args: tuple[Any, ...]) -> Callable[[], Any] | None:
    """Return a greedy loop with the number of picks fixed, which a graph can hold; None for other operations."""
    if not case.operation.startswith("greedy"):
        return None
    matrix, count, valid = args[:3]
    steps = int(count.max())
    many = torch.zeros(len(valid), steps, dtype=torch.long, device=matrix.device)
    b, n = valid.shape
    diagonal = torch.eye(n, dtype=torch.bool, device=matrix.device)[None] | ~valid[:, :, None]

    def first_max(score: Tensor, open_: Tensor) -> Tensor:
        return score.masked_fill(~open_, -torch.inf).argmax(1)

    def row(at: Tensor) -> Tensor:
        return matrix.gather(1, at[:, None, None].expand(-1, 1, n))[:, 0]

    def max_min() -> None:
        open_ = valid.clone()
        best = first_max(matrix.masked_fill(diagonal, torch.inf).amin(1), open_)
        least = row(best)
        for step in range(steps):
            many[:, step] = best
            open_.scatter_(1, best[:, None], False)
            least = torch.minimum(least, row(best))
            best = first_max(least, open_)

    def cover() -> None:
        open_, covered = valid.clone(), torch.zeros_like(matrix[:, :, 0])
        for step in range(steps):
            best = first_max((matrix - covered[..., None]).clamp_min(0).sum(1), open_)
            many[:, step] = best
            open_.scatter_(1, best[:, None], False)
            column = matrix.gather(2, best[:, None, None].expand(-1, matrix.shape[1], 1))[..., 0]
            covered = torch.maximum(covered, column)

    def volume() -> None:
        residual, open_ = matrix.diagonal(dim1=1, dim2=2).clone(), valid.clone()
        basis = matrix.new_zeros(b, steps, n)
        for step in range(steps):
            best = first_max(residual, open_)
            many[:, step] = best
            open_.scatter_(1, best[:, None], False)
            known = basis[:, :step].gather(2, best[:, None, None].expand(b, step, 1))
            pivot = residual.gather(1, best[:, None]).clamp_min(1e-30)
            basis[:, step] = (row(best) - (known * basis[:, :step]).sum(1)) / pivot.sqrt()
            residual = residual - basis[:, step].square()

    return {"greedy_select": max_min, "greedy_cover": cover, "greedy_volume": volume}[case.operation]


def _share(
    case: Case, args: tuple[Any, ...], ms: float | None, rates: dict[str, float]
) -> tuple[str, float | None]:
    """Return what bounds an operation, and the share of it that a time reaches."""
    if case.operation == "gather_rows":
        tensors, index = args[:2]
        picked = index.shape[1] / tensors[0].shape[-2]
        moved = sum(2 * x.numel() * x.element_size() * picked for x in tensors)
    elif case.operation == "bipartite_merge":
        x = args[0]
        moved = x.numel() * (x.element_size() + 4)
    elif case.operation == "sum_rows":
        x, offsets, columns = args[:3]
        moved = (len(columns) + len(offsets) - 1) * x.shape[-1] * x.element_size()
    elif case.operation == "attention_received":
        q, k = args[:2]
        flops = 4 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * q.shape[3]
        return "matmul rate", None if ms is None else flops / (ms / 1e3) / rates["matmul_flops_per_s"]
    else:
        return "latency", None
    return "copy bandwidth", None if ms is None else moved / (ms / 1e3) / rates["copy_bytes_per_s"]


def table(results: Sequence[Result], known: str = "") -> str:
    """Return results as CSV after those of other cards and torch versions in `known`; a second run replaces its own."""
    out = io.StringIO()
    names = [f.name for f in fields(Result)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    new = {(r.operation, r.case, r.dtype, r.provider, r.gpu, r.torch) for r in results}
    key = ("operation", "case", "dtype", "provider", "gpu", "torch")
    for row in csv.DictReader(io.StringIO(known)):
        if tuple(row[k] for k in key) not in new:
            writer.writerow({name: row.get(name, "") for name in names})
    for result in results:
        writer.writerow({k: "" if v is None else v for k, v in asdict(result).items()})
    return out.getvalue()
