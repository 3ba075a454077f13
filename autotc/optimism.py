"""Winner's curse: what is chosen for its quality on some examples is on others as good as it really is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotc.export import Member


@dataclass(frozen=True)
class Optimism:
    """Quality on selection, which policies are chosen by, less that on held-out.

    Args:
        value: mean over the members.
        stderr: its standard error, clustered by image; that of members which err together, so rather too large.
            None where a split has one image only.
        n, n_heldout: examples of selection and of held-out.
        members: it is the mean over.
    """

    value: float
    stderr: float | None
    n: int
    n_heldout: int
    members: int

    @property
    def text(self) -> str:
        """One plain sentence."""
        error = "" if self.stderr is None else f" ± {100 * self.stderr:.1f}"
        who = "it was chosen by" if self.members == 1 else f"these {self.members} members were chosen by"
        return (
            f"Optimism: {100 * self.value:+.1f}{error} points (standard error), the quality on the selection examples "
            f"that {who}, less that on held-out (n {self.n} and {self.n_heldout})"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "text": self.text}


def optimism(members: Sequence[Member]) -> Optimism | None:
    """Return the optimism of some members together; None where none was measured on both splits."""
    pairs = [(m.number("quality", "selection"), m.number("quality", "held-out")) for m in members]
    there = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not there:
        return None
    count = len(there)
    errors = [
        None if one.stderr is None or other.stderr is None else (one.stderr**2 + other.stderr**2) ** 0.5
        for one, other in there
    ]
    known = [e for e in errors if e is not None]
    return Optimism(
        value=sum(one.value - other.value for one, other in there) / count,
        stderr=sum(known) / count if len(known) == count else None,
        n=max(one.n or 0 for one, _ in there),
        n_heldout=max(other.n or 0 for _, other in there),
        members=count,
    )
