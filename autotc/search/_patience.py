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
REMIND_S = 60.0


@dataclass
class Patience:
    """Repeats what a database that is away could not do, and says when it waits and when it goes on.

    Args:
        waits: asked before each repetition; False raises the error.
        say: takes the lines, one when an outage begins, one a minute while it lasts, one when it or the wait is over.
        store: learns of outages that only the sampler met, so that the leases of others get their time to be renewed.
        limit_s: the longest outage that is waited for; None: there is no limit.
    """

    waits: Callable[[], bool] = lambda: False
    say: Callable[[str], object] = lambda line: None
    store: Store | None = None
    limit_s: float | None = None

    def __post_init__(self) -> None:
        self._since: float | None = None
        self._said = 0.0

    def __call__(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, which must be safe to do twice.

        Raises:
            StoreError: the database refuses for good, or is away and nobody waits.
        """
        pause_s = 0.1
        while True:
            try:
                found = work()
            except StoreAway as error:
                self.away(error)
            else:
                self.there()
                return found
            time.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    @property
    def waiting(self) -> bool:
        """Whether the database did not answer when it was last asked."""
        return self._since is not None

    def away(self, error: StoreAway) -> None:
        """Note that the database did not answer.

        Raises:
            StoreAway: the error, where nobody waits, or has waited long enough.
        """
        now, words = time.monotonic(), " ".join(str(error).split())  # a server's words may be several lines
        if self.store is not None:
            self.store.note_away()
        away_s = 0.0 if self._since is None else now - self._since
        if not self.waits() or (self.limit_s is not None and away_s >= self.limit_s):
            if self.waiting:
                self.say(f"the database has been away for {away_s:.0f} s; no longer waiting")
            raise error
        if self._since is None:
            self._since = self._said = now
            self.say(f"the database is away; waiting for it, Ctrl-C or SIGTERM ends the wait: {words}")
        elif now - self._said >= REMIND_S:
            self._said = now
            self.say(f"the database has been away for {away_s:.0f} s; still waiting: {words}")

    def there(self) -> None:
        """Note that the database answers."""
        if self._since is not None:
            self.say(f"the database is back after {time.monotonic() - self._since:.0f} s")
            self._since = None


def ticks(store: Store, over: threading.Event, seconds: float) -> Iterator[None]:
    """Come every so many seconds until `over` is set; the store learns how much later than planned that was."""
    while True:
        planned = time.monotonic() + seconds
        ended = over.wait(seconds)
        store.note_away(time.monotonic() - planned)
        if ended:
            return
        yield


@contextmanager
def beating(store: Store, renew: Callable[[], object], lease_s: float) -> Iterator[None]:
    """Call `renew` four times a lease while a block runs; a database that is away meanwhile is asked again."""
    over = threading.Event()

    def beat() -> None:
        for _ in ticks(store, over, lease_s / 4):
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
    with store.in_hand(trial_id), beating(store, lambda: store.renew(trial_id, worker, lease_s), lease_s):
        try:
            yield
        except KeyboardInterrupt:
            store.release(trial_id, worker)
            raise
