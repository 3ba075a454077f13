"""`autotc search`, typed as its user does, on fake models: `python -m tests.chaos.command FOLDER OPTIONS...`."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

from autotc.search.setting import Setting
from autotc.search.spec import SearchSpec
from tests.chaos.fleet import Fleet, noting
from tests.search.test_study import SETTING

ROOT = Path(__file__).parents[2]


class Command:
    """The command in a process of its own, killed at the end of a `with` block if it still runs.

    Args:
        fleet: whose database and folder it uses.
        spec: what is searched for.
    """

    def __init__(self, fleet: Fleet, spec: SearchSpec) -> None:
        options = {
            "--model": spec.model,
            "--max-tflops": spec.max_tflops,
            "--study": spec.study,
            "--trials": spec.trials,
            "--strategy": spec.strategy,
            "--workers": spec.workers,
            "--examples": spec.examples,
            "--selection-examples": spec.selection_examples,
            "--heldout-examples": spec.heldout_examples,
            "--storage": fleet.url,
        }
        words = [str(word) for option in options.items() for word in option]
        words += [word for name in spec.reducers or () for word in ("--reducer", name)]
        self._log = fleet.folder / "search.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.command", str(fleet.folder), *words],
                cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def ended(self) -> bool:
        """Whether it does not run any more."""
        return self.process.poll() is not None

    def children(self) -> set[str]:
        """Return the processes that it has started and that live."""
        return set(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())

    def exit_code(self, fleet: Fleet) -> int:
        """Return how it ended, once it has."""
        fleet.until(lambda: self.ended, "the command ended")
        return self.process.returncode

    def said(self) -> str:
        """Return what it has written on stderr."""
        return self._log.read_text()


def prepare(folder: Path, spec: SearchSpec) -> Setting:
    """Return what a search runs on here."""
    return replace(SETTING, evaluator=partial(noting, folder, 0.1, spec.study))


if __name__ == "__main__":
    from autotc import cli, running

    # as in a terminal: what a shell starts in the background ignores Ctrl-C, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    running.prepare = partial(prepare, Path(sys.argv[1]))  # type: ignore[assignment]
    sys.argv[1] = "search"
    cli.main()
