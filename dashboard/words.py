"""How figures and names are written."""

from __future__ import annotations

from statistics import NormalDist

from autotc import constraints
from autotc.policy import Number

WIDTH = NormalDist().inv_cdf(0.975)  # standard errors to either side of a 95 % interval
COUNTS = {"literature": "papers’ count", "exact": "exact"}  # ways to count FLOPs
SHOWN = 120  # characters of a name or a policy's description
SHARES = constraints.SHARES | {"grounded"}


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


def signed(value: float, unit: str) -> str:
    """Write a difference with its sign."""
    return f"{value:+.1f} {unit}".replace("-", "−")


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
