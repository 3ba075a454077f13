"""Fronts of stored studies for many who ask: a trial is read when it is new or has changed, a front drawn once."""

from __future__ import annotations

import gc
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

from autotc.export import Member, member
from autotc.store import Store
from autotc.tables.fronts import FrontView

STUDIES = 16  # whose trials are remembered, those asked for last
LIMITS = 64  # fronts of a study that are remembered
DOCUMENTS = 16  # and of these as JSON, which is up to 100 kB each
MANY = 1000  # trials read at once, which are then left out of garbage collections

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
    documents: OrderedDict[tuple[Limits, bool], bytes] = field(default_factory=OrderedDict)


class Fronts:
    """The fronts of a store's studies, as the store is at the moment."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._studies: OrderedDict[str, _Known] = OrderedDict()

    def view(self, study: str, limit: float | None = None, convention: str | None = None) -> FrontView | None:
        """Return what `FrontView.read` does, None where there is no such study."""
        with self._known(study) as known:
            return None if known is None else self._view(study, (limit, convention), known)

    def document(
        self, study: str, limit: float | None, convention: str | None, with_references: bool
    ) -> bytes | None:
        """Return the front as JSON, as `autotc front --json` prints it; None where there is no such study."""
        limits = limit, convention
        with self._known(study) as known:
            if known is None:
                return None
            found = _latest(known.documents, (limits, with_references), DOCUMENTS)
            if found is None:
                view = self._view(study, limits, known)
                shown = (*view.front, *(view.references if with_references else ()))
                found = json.dumps(
                    [view.as_dict(m) for m in shown],
                    ensure_ascii=False,
                    allow_nan=False,
                    separators=(",", ":"),
                ).encode()
                known.documents[limits, with_references] = found
            return found

    @contextmanager
    def _known(self, study: str) -> Iterator[_Known | None]:
        """Give a study as the store has it now, for one at a time; None where there is no such study."""
        changes = self._store.changes(study)
        if changes is None:
            yield None
            return
        with self._lock:
            known = _latest(self._studies, study, STUDIES) or _Known()
            self._studies[study] = known
        with known.lock:
            if known.at < changes:
                self._read(study, known)
            yield known

    def _view(self, study: str, limits: Limits, known: _Known) -> FrontView:
        found = _latest(known.views, limits, LIMITS)
        if found is None:
            found = FrontView.read(self._store, study, *limits, everything=known.everything)
            known.views[limits] = found
        return found

    def _read(self, study: str, known: _Known) -> None:
        with _without_collections():
            known.at, rows = self._store.changed(study, known.at)
            done = [row for row in rows if row.state == "complete" and row.numbers]
            known.members |= {row.id: member(row) for row in done}
            known.everything = [
                known.members[i] for i in sorted(known.members)
            ]  # in the order they were entered
            known.views.clear()
            known.documents.clear()
            if len(rows) >= MANY:
                # they stay, and a collection that looks at all of them stops every answer: 0.4 s for 10,000 trials
                gc.freeze()


@contextmanager
def _without_collections() -> Iterator[None]:
    """Make many objects that stay: collections in between would look at all of them again and again."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _latest(kept: OrderedDict[K, V], key: K, most: int) -> V | None:
    """Return what is kept under a key, which is then the latest; make room for it where there is none."""
    if key in kept:
        kept.move_to_end(key)
        return kept[key]
    while len(kept) >= most:
        kept.popitem(last=False)
    return None
