"""How long each reducer takes by itself, as a ratio to the cosine map of the same tokens in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from autotc.reducer import (
    SIGNALS,
    Reducer,
    Shape,
    Signals,
    TokenView,
    axes,
    make_reducer,
    reducers,
    resolve_needs,
)
from autotc.scoring import cosine

WIDTHS = {"B": 1, "H": 32, "G": 32, "hd": 128, "D": 4096, "Dv": 1024, "E": 768, "T": 40}
KEEP = 1 / 9


@dataclass(frozen=True)
class Timing:
    """One reducer's own work on one image.

    Args:
        name: of the reducer.
        tokens, kept: in and out.
        ms: median wall time of `assign`, milliseconds.
        spread_ms: half the distance of the quartiles.
        ratio: to the cosine map of the tokens.
        gflops: what the cost model charges, GFLOP.
        why: the docstring's word on its cost.
    """

    name: str
    tokens: int
    kept: int
    ms: float
    spread_ms: float
    ratio: float
    gflops: float
    why: str


def run(
    tokens: int = 576,
    names: Sequence[str] = (),
    repeats: int = 7,
    threads: int = 1,
    each: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Time reducers at LLaVA-1.5-7B's widths on random tokens.

    Args:
        tokens: of the image, a square number.
        names: of the reducers; all by default.
        repeats: timed runs of each, after one that is not counted.
        threads: of torch.
        each: called before each reducer.

    Returns:
        `alternative` (what ratios are to, its ms and GFLOP) and `reducers`, slowest first.
    """
    torch.set_num_threads(threads)
    side = int(tokens**0.5)
    view = random_view(tokens)
    alternative, _ = _median(lambda: cosine(view.x), repeats)
    found = []
    for name in names or reducers.names():
        cls = reducers.get(name)
        if cls.sites == ("input",):  # it resizes images, there are no tokens yet
            continue
        each(name)
        kept = 0 if cls.withdraws else round(tokens * KEEP)
        reducer = make_reducer(name)
        ms, spread = _median(lambda: _assign(reducer, view, kept), repeats)  # noqa: B023
        shape = Shape(tokens, kept, WIDTHS["D"], WIDTHS["H"], WIDTHS["hd"], WIDTHS["T"])
        text = (cls.__doc__ or "").partition("Cost:")[2]
        why = " ".join(text.split())
        timing = Timing(name, tokens, kept, ms, spread, ms / alternative, reducer.flops(shape) / 1e9, why)
        found.append(timing)
    found.sort(key=lambda timing: -timing.ms)
    gflops = 2 * tokens**2 * WIDTHS["D"] / 1e9
    return {
        "alternative": {
            "name": f"cosine map of {tokens} tokens, d = {WIDTHS['D']}",
            "ms": alternative,
            "gflops": gflops,
        },
        "grid": [side, side],
        "threads": threads,
        "torch": torch.__version__,
        "device": "cpu",
        "reducers": [asdict(timing) for timing in found],
    }


def page(result: dict[str, Any]) -> str:
    """Return the timings as a Markdown page."""
    against = result["alternative"]
    rows = [
        f"| `{r['name']}` | {r['ms']:.1f} ± {r['spread_ms']:.1f} | {r['ratio']:.3f} | {r['gflops']:.3f} | {r['why']} |"
        for r in result["reducers"]
    ]
    return "\n".join(
        (
            "# What each method's own decision takes",
            "",
            f"One image of {result['reducers'][0]['tokens']} random tokens at LLaVA-1.5-7B's widths "
            f"(d = {WIDTHS['D']}, {WIDTHS['H']} heads), a ninth of them kept, measured on the CPU with "
            f"{result['threads']} thread of torch {result['torch']}. Medians ± half the distance of the quartiles, in "
            f"ms; the ratio is to a {against['name']}, which took {against['ms']:.1f} ms in the same run "
            f"({against['gflops']:.2f} GFLOP). Times include neither the model nor the signals it hands out. "
            "*charged* is what the exact cost counts, GFLOP, with the projections that a signal needs.",
            "",
            "`autotc bench reducers --out studies/reducers` writes this page.",
            "",
            "| method | ms | ratio | charged | what it does |",
            "|---|---:|---:|---:|---|",
            *rows,
            "",
        )
    )


def random_view(tokens: int, seed: int = 0) -> TokenView:
    """Return one image of random tokens with every signal; attention is a softmax, as it is in a model."""
    random = torch.Generator().manual_seed(seed)
    sizes = {**WIDTHS, "N": tokens, "N0": tokens}
    signals: dict[str, Tensor] = {}
    for name in SIGNALS:
        value = torch.randn([sizes[axis] for axis in axes(name)], generator=random)
        signals[name] = value.softmax(-1) * 0.8 if name.endswith("attention") else value
    x = torch.randn(1, tokens, WIDTHS["D"], generator=random)
    words = torch.ones(1, WIDTHS["T"], dtype=torch.bool)
    return TokenView(x, signals=signals, text_valid=words, prefix=1)


def _assign(reducer: Reducer, view: TokenView, kept: int) -> None:
    needs, _ = resolve_needs(type(reducer), set(SIGNALS))
    mine = TokenView(
        view.x,
        signals=Signals(view.signals, needs),
        text_valid=view.text_valid,
        prefix=view.prefix,
    )
    if type(reducer).stateful:
        reducer.observe(mine)
    reducer.assign(mine, kept)


def _median(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return median and half the quartile distance of some runs in ms; the first run warms up."""
    work()
    times = []
    for _ in range(max(2, repeats)):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, (high - low) / 2
