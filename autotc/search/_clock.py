"""Where the time of a search goes, and how much is left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Seconds of a run by what they were spent on, in this process.

    Args:
        wall_s: from the first evaluation to the end.
        evaluator_s: inside the evaluator.
        parts_s: the rest by name (ask, decode, store, tell, report).
    """

    wall_s: float
    evaluator_s: float
    parts_s: dict[str, float]

    @property
    def outside(self) -> float:
        """Share of the wall time spent outside the evaluator."""
        return 0.0 if self.wall_s <= 0 else max(0.0, self.wall_s - self.evaluator_s) / self.wall_s


class Clock:
    """Counts seconds by part and knows the deadline.

    Args:
        timeout: seconds from `started` after which the whole run should be over; None for no limit.
        started: `time.monotonic()` when the user's command started; now by default.
    """

    def __init__(self, timeout: float | None, started: float | None = None) -> None:
        self.started = time.monotonic() if started is None else started
        self.deadline = None if timeout is None else self.started + timeout
        self._first: float | None = None
        self._parts: dict[str, float] = defaultdict(float)
        self._opening_s = 0.0  # of first looks
        self._opened = (0.0, 0)  # seconds and examples of the latest one: the very first loads the model
        self.examples = 0  # of evaluations that were not the first on them

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the seconds of a block under a name."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._parts[name] += time.monotonic() - begin

    @contextmanager
    def evaluating(self, examples: int, opens: bool = False) -> Iterator[None]:
        """Count the seconds of a block as evaluation of some examples.

        Args:
            opens: whether it is the first on them, which runs the references too.
        """
        begin = time.monotonic()
        if self._first is None:
            self._first = begin
        with self.part("evaluator"):
            yield
        if opens:
            spent = time.monotonic() - begin
            self._opening_s += spent
            self._opened = (spent, examples)
        else:
            self.examples += examples

    @property
    def left_s(self) -> float | None:
        """Seconds to the deadline, None where there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def seconds_an_example(self) -> float:
        """Mean so far, first looks left out; 0 before the first evaluation."""
        spent = self._parts["evaluator"] - self._opening_s
        return spent / self.examples if self.examples else 0.0

    @property
    def opening_s_an_example(self) -> float:
        """What a first look at an example takes, references included; 0 before any."""
        spent, examples = self._opened
        return spent / examples if examples else 0.0

    def profile(self) -> Profile:
        """Return what was counted so far."""
        wall = 0.0 if self._first is None else time.monotonic() - self._first
        parts = {name: s for name, s in self._parts.items() if name != "evaluator"}
        return Profile(wall, self._parts.get("evaluator", 0.0), parts)
