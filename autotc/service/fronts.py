"""Fronts of stored studies for many who ask: a trial is read when it is new or has changed, a front drawn once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

from autotc.export import Member, member
from autotc.store import Store
from autotc.tables.fronts import FrontView

STUDIES = 16  # whose trials are remembered, those asked for last
LIMITS = 64  # fronts of a study that are remembered

K = TypeVar("K")
V = TypeVar("V")
Limits = tuple[float | None, str | None]


@dataclass
class _Known:
    """A study as it was when it had changed `at` times."""

    lock: Lock = field(default_factory=Lock)
    at: int = -1
    members: dict[int, Member] = field(default_factory=dict)
    everything: list[Member] = field(default_factory=list)
    views: OrderedDict[Limits, FrontView] = field(default_factory=OrderedDict)


class Fronts:
    """The fronts of a store's studies, as the store is at the moment."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._studies: OrderedDict[str, _Known] = OrderedDict()

    def view(self, study: str, limit: float | None = None, convention: str | None = None) -> FrontView | None:
        """Return what `FrontView.read` does, None where there is no such study."""
        changes = self._store.changes(study)
        if changes is None:
            return None
        with self._lock:
            known = _latest(self._studies, study, STUDIES) or _Known()
            self._studies[study] = known
        with known.lock:
            if known.at < changes:
                self._read(study, known)
            found = _latest(known.views, (limit, convention), LIMITS)
            if found is None:
                found = FrontView.read(self._store, study, limit, convention, everything=known.everything)
                known.views[limit, convention] = found
            return found

    def _read(self, study: str, known: _Known) -> None:
        known.at, rows = self._store.changed(study, known.at)
        done = [row for row in rows if row.state == "complete" and row.numbers]
        known.members |= {row.id: member(row) for row in done}
        known.everything = [known.members[i] for i in sorted(known.members)]  # in the order they were entered
        known.views.clear()


def _latest(kept: OrderedDict[K, V], key: K, most: int) -> V | None:
    """Return what is kept under a key, which is then the latest; make room for it where there is none."""
    if key in kept:
        kept.move_to_end(key)
        return kept[key]
    while len(kept) >= most:
        kept.popitem(last=False)
    return None
