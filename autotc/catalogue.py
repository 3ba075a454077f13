"""The published systems that autotc knows, and its answer for each: what runs here, and if nothing does, why.

`catalogue.json` holds facts (title, arXiv id, repository, kind, tags) and our answer as it is while no reducer
implements the paper. Which reducer does is never written there: it follows from the registry, by arXiv id, or
by title where the catalogue has no id. So a paper becomes a `reducer` when its file is added, with no other edit.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from autotc.errors import SpecError
from autotc.registry import nearest

if TYPE_CHECKING:
    from autotc.reducer import Reducer

STATUSES: dict[str, str] = {
    "reducer": "runs here, as the reducers named",
    "preset": "its rule is a reducer that exists; runs here as the preset named",
    "search strategy": "finds recipes rather than tokens; planned as a strategy of the search",
    "planned": "waits for a part of autotc that is not built yet, which is named",
    "open": "needs no training and its rule is known; nobody has written the reducer yet",
    "no specification": "no usable code is known to us, nor the rule well enough to rebuild it",
    "needs training": "works only with weights that were trained for it",
    "other model": "made for models that autotc does not run: diffusion, state-space, detectors and others",
    "other subject": "not about fewer visual tokens: text, reasoning, weights, speech and others",
    "hardware": "a design of chips",
    "study": "a survey, benchmark or position: no method to run",
}


@dataclass(frozen=True)
class Paper:
    """One published system.

    Args:
        title, arxiv, repo, kind, tags: facts as the catalogue gives them; arXiv id and repository may be unknown.
        status: one of STATUSES.
        why: what it does or why it cannot run here; where it runs, how.
        reducers: names of the reducers that implement it.
        preset: the preset that stands for it, where it has no reducer of its own.
        waits_for: parts of autotc that it waits for.
        besides: what is still missing of a paper whose reducer exists.
    """

    title: str
    arxiv: str | None
    repo: str | None
    kind: str
    tags: dict[str, list[str]]
    status: str
    why: str
    reducers: tuple[str, ...] = ()
    preset: str | None = None
    waits_for: tuple[str, ...] = ()
    besides: str | None = None

    @property
    def year(self) -> int | None:
        """The year of the arXiv id."""
        return None if self.arxiv is None else 2000 + int(self.arxiv[:2])

    @property
    def answer(self) -> str:
        """The answer in one line, without the status."""
        if self.preset:
            return f"{self.preset}: {self.why}"
        if self.waits_for:
            parts = ("the cache site" if part == "cache" else part for part in self.waits_for)
            return f"waits for {' and '.join(parts)}: {self.why}"
        return f"{self.why}; {self.besides}" if self.besides else self.why

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "year": self.year, "answer": self.answer}


@cache
def papers() -> tuple[Paper, ...]:
    """Return every system of the catalogue, in its order, with the answer that holds now."""
    found = listed()
    links = _links(found)
    return tuple(_implemented(p, links[i]) if i in links else p for i, p in enumerate(found))


@cache
def listed() -> tuple[Paper, ...]:
    """Return the catalogue as written: the answers that hold where no reducer implements the paper."""
    rows = json.loads(files("autotc").joinpath("catalogue.json").read_text(encoding="utf-8"))
    return tuple(Paper(**{**row, "waits_for": tuple(row.get("waits_for", ()))}) for row in rows)


def unlisted() -> tuple[type[Reducer], ...]:
    """Return the reducers that stand for no system of the catalogue: baselines, and papers it does not have."""
    from autotc.reducer import reducers

    names = {name for p in papers() for name in p.reducers}
    return tuple(cls for cls in reducers.all() if cls.name not in names)


def select(statuses: Sequence[str] = (), text: str | None = None) -> list[Paper]:
    """Return the systems of these statuses (all where none is given) that hold every word of a text.

    Raises:
        SpecError: an unknown status.
    """
    wanted = {re.sub(r"[-_ ]+", " ", status.strip().lower()) for status in statuses}
    for status in sorted(wanted - set(STATUSES)):
        raise SpecError(f"--status: unknown {status!r}. {nearest(status, STATUSES)}")
    return [p for p in papers() if (not wanted or p.status in wanted) and holds(p.as_dict(), text)]


def holds(row: dict[str, Any], text: str | None) -> bool:
    """Return whether every word of a text occurs in the values of a row, whatever the case."""
    where = " ".join(map(str, row.values())).casefold()
    return all(word in where for word in (text or "").casefold().split())


def counts(found: Iterable[Paper]) -> dict[str, int]:
    """Return how many systems have each status, in the order of STATUSES, zeros left out."""
    seen = Counter(p.status for p in found)
    return {status: seen[status] for status in STATUSES if seen[status]}


def _links(found: Sequence[Paper]) -> dict[int, list[type[Reducer]]]:
    """Return the reducers of each paper that has any, by its place."""
    from autotc.reducer import reducers

    by_id = {p.arxiv: i for i, p in enumerate(found) if p.arxiv}
    by_title = {_letters(p.title): i for i, p in enumerate(found) if not p.arxiv}
    links: dict[int, list[type[Reducer]]] = {}
    for cls in reducers.all():
        place = by_id.get(cls.source.arxiv or "")
        place = by_title.get(_letters(cls.source.title)) if place is None else place
        if place is not None:
            links.setdefault(place, []).append(cls)
    return links


def _implemented(paper: Paper, by: Sequence[type[Reducer]]) -> Paper:
    """Return the paper with the answer that its reducers give."""
    why = "; ".join(f"{cls.name} ({', '.join(cls.sites)}; {cls.fidelity})" for cls in by)
    names = tuple(cls.name for cls in by)
    return replace(paper, status="reducer", why=why, reducers=names, preset=None, waits_for=())


def _letters(title: str) -> str:
    return re.sub(r"[^a-z0-9]", "", title.casefold())
