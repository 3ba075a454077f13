"""The progress line of a search: one line that is rewritten on a terminal, one line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

if TYPE_CHECKING:
    from autotc.search._session import Progress as Step

EVERY_S = 10.0
PHASES = {
    "references": "references",
    "trials": "trials",
    "selection": "confirming on selection",
    "held-out": "measuring held-out",
}


def duration(seconds: float | None) -> str:
    """Write seconds as '3:07', or '-' while unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class SearchProgress:
    """Shows the steps of a search on stderr; a context manager whose instance is the callback."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal and not quiet
        self._quiet = quiet
        self._last: tuple[str, float] = ("", 0.0)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            console=self._console,
        )
        self._task = self._bar.add_task("starting", total=None, text="loading the model")

    def __enter__(self) -> SearchProgress:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a message above the line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def __call__(self, step: Step) -> None:
        """Show a step."""
        best = "-" if step.best_quality is None else f"{100 * step.best_quality:.1f} %"
        text = (
            f"{step.done}/{step.total}  trials {step.trials}/{step.trials_total}  front {step.front}  "
            f"best {best}  left {duration(step.left_s)}"
        )
        phase = PHASES.get(step.phase, step.phase)
        if self._live:
            self._bar.update(self._task, description=phase, total=step.total, completed=step.done, text=text)
            return
        now = time.monotonic()
        due = step.phase != self._last[0] or step.done == step.total or now - self._last[1] >= EVERY_S
        if due and not self._quiet:
            self._last = (step.phase, now)
            self._console.print(f"{phase} {text}")
