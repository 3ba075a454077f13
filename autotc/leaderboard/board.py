"""What a leaderboard holds, and its file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autotc.errors import SpecError
from autotc.policy import Policy


@dataclass(frozen=True)
class Entry:
    """One policy to measure.

    Args:
        label: name of the preset, or of the reducer where it has none.
        reducer: whose recipe it is.
        share: of the tokens, which names the budget.
        policy: for the full model; None for the uncompressed one.
    """

    label: str
    reducer: str
    share: float
    policy: Policy | None


@dataclass(frozen=True)
class Row:
    """One measured policy.

    Args:
        label, reducer, share: as in `Entry`.
        fidelity: how true to the paper the method is on this family.
        query_aware: whether it reads the prompt.
        tflops_exact, tflops_literature: estimated, TFLOP per 1,000 requests of the full model.
        quality, worst_group, versus_random: mean, standard error, n; the last is paired.
        kept: share of the original tokens really alive after each stage; costs are for these.
        policy: the document.
    """

    label: str
    reducer: str
    share: float
    fidelity: str
    query_aware: bool
    tflops_exact: float
    tflops_literature: float
    quality: tuple[float, float | None, int]
    worst_group: tuple[str, float, float | None, int] | None
    versus_random: tuple[float, float | None, int] | None
    kept: tuple[float, ...]
    policy: dict[str, Any] | None


@dataclass
class Board:
    """The leaderboard of one family.

    Args:
        model, on: whose costs these are, and what was run.
        examples: asked for on the held-out split.
        workload: whose mix the costs are for.
        tokens: visual tokens of its first request's image.
        limits: exact cost of each budget, TFLOP per 1,000 requests.
        rows: measured.
        left_out: label, share and reason of what could not be placed or run.
    """

    model: str
    on: str
    examples: int
    workload: str
    tokens: int
    limits: dict[float, float]
    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, float, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "limits": {f"{share:.6f}": limit for share, limit in self.limits.items()}}

    @staticmethod
    def read(path: Path) -> Board:
        """Read what `as_dict` gave.

        Raises:
            SpecError: the file is not a leaderboard.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data["limits"] = {float(share): limit for share, limit in data["limits"].items()}
            data["rows"] = [Row(**{k: _tuple(v) for k, v in row.items()}) for row in data["rows"]]
            data["left_out"] = [tuple(item) for item in data["left_out"]]
            return Board(**data)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SpecError(f"{path}: not a leaderboard ({error}); delete it to start again") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
