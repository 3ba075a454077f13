"""Holding on to work while the database is away, and to a trial while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from autotc.errors import StoreAway, StoreError
from autotc.store import Store

T = TypeVar("T")
LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True)
class Patience:
    """Repeats what a database that is away could not do.

    Args:
        waits: asked before each repetition with the error; False raises it.
    """

    waits: Callable[[StoreAway], bool] = lambda error: False

    def __call__(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, which must be safe to do twice.

        Raises:
            StoreError: the database refuses for good, or is away and nobody waits.
        """
        pause_s = 0.1
        while True:
            try:
                return work()
            except StoreAway as error:
                if not self.waits(error):
                    raise
            time.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


@contextmanager
def beating(renew: Callable[[], object], lease_s: float) -> Iterator[None]:
    """Call `renew` four times a lease while a block runs; a database that is away meanwhile is asked again."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(lease_s / 4):
            try:
                renew()
            except StoreError:
                continue

    thread = threading.Thread(target=beat, name="autotc-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def held(store: Store, trial_id: int, worker: str, lease_s: float) -> Iterator[None]:
    """Keep the lease on a trial while it runs; give it back at once when the run is interrupted."""
    with beating(lambda: store.renew(trial_id, worker, lease_s), lease_s):
        try:
            yield
        except KeyboardInterrupt:
            store.release(trial_id, worker)
            raise
