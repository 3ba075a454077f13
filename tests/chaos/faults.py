"""What can be done to a worker from the inside, before it begins: each is called in the worker's own process."""

from __future__ import annotations

import datetime as calendar
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from autotc.search import _history
from autotc.search._history import History


def die() -> None:
    """End this process as the kernel does when memory is out: nothing is closed, nothing is said."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def killed_in_commit(number: int, seed: int) -> None:
    """Be killed within about a millisecond around the commit of that number, whichever table it is for."""
    late_s = random.Random(seed).uniform(0.0, 0.001)
    left = number

    def commit(connection: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            # from another thread, which runs while this one waits for the database
            threading.Thread(target=lambda: (time.sleep(late_s), die()), daemon=True).start()

    event.listen(Engine, "commit", commit)


def killed_while_telling(number: int) -> None:
    """Be killed when some of what the sampler is told is written and nothing of it committed.

    Args:
        number: 1: a trial's state and constraints; 2: its values as well.
    """
    insert, finish = _history._insert, History.finish
    left = number

    def once(*args: Any, **kwargs: Any) -> None:
        nonlocal left
        insert(*args, **kwargs)
        left -= 1
        if left == 0:
            die()

    def telling(self: History, *args: Any, **kwargs: Any) -> bool:
        _history._insert = once
        return finish(self, *args, **kwargs)

    History.finish = telling  # type: ignore[method-assign]


def own_clock(file: Path) -> None:
    """Let this process's clock be ahead by the seconds that a file holds; time that only passes is left alone."""

    def ahead() -> float:
        return float(file.read_text() or 0)

    class Clock(calendar.datetime):
        @classmethod
        def now(cls, tz: calendar.tzinfo | None = None) -> calendar.datetime:
            return calendar.datetime.now(tz) + calendar.timedelta(seconds=ahead())

    for name, module in list(sys.modules.items()):
        if name.startswith(("autotc.", "optuna.")) and getattr(module, "datetime", None) is calendar.datetime:
            module.datetime = Clock  # type: ignore[attr-defined]
    real = time.time
    time.time = lambda: real() + ahead()
