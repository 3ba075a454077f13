"""How a worker is stopped: the first signal lets it finish what is in hand, a second one does not."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType

GRACE_S = 20.0  # SLURM and Kubernetes kill 30 s after they have asked
SIGNALS = (signal.SIGTERM, signal.SIGINT)
TWICE_S = 1.0  # terminals, `timeout` and schedulers may send one signal to a process and to its group


class HandBack(KeyboardInterrupt):
    """The trial in hand took too long after the first signal; another worker gets it."""


class Stopping:
    """Catches SIGTERM and Ctrl-C inside a `with` block of the main thread.

    Args:
        grace_s: seconds that the trial in hand has after the first signal before it is handed back.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.asked, self._since = False, 0.0
        self._grace_s = grace_s

    def __enter__(self) -> Stopping:
        self._before = {n: signal.signal(n, self._ask) for n in SIGNALS}
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._hand_back)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if time.monotonic() - self._since < TWICE_S:
                return
            raise KeyboardInterrupt
        self.asked, self._since = True, time.monotonic()
        # not print: the handler may have interrupted another print
        os.write(
            2, b"Stopping: the trial in hand is finished or handed back; the same signal again stops now.\n"
        )
        signal.setitimer(signal.ITIMER_REAL, self._grace_s)

    def _hand_back(self, number: int, frame: FrameType | None) -> None:
        raise HandBack
