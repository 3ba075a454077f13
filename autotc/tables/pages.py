"""Pages that are generated from the registry and the catalogue; `make catalogue` writes those of the repository.

`python -m autotc.tables.pages FOLDER` writes `studies/catalogue.md` and the part of `README.md` between its
catalogue markers; tests compare both with what is generated here.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill

from autotc.catalogue import STATUSES, Paper, counts, papers
from autotc.errors import SpecError
from autotc.registry import nearest
from autotc.tables.papers import outside

MARKS = ("<!-- catalogue -->", "<!-- /catalogue -->")
COMMAND = "make catalogue"


def page(what: str) -> str:
    """Return the page of `autotc list WHAT --markdown`.

    Raises:
        SpecError: there is no such page.
    """
    pages = {"papers": papers_page, "reducers": reducers_table}
    if what not in pages:
        raise SpecError(f"--markdown: there is no page of {what!r}. {nearest(what, pages)}")
    return pages[what]()


def papers_page() -> str:
    """Return `studies/catalogue.md`: what runs here of each published system, and if nothing does, why."""
    found = papers()
    lines = [
        "# The catalogue",
        "",
        f"What autotc answers for each of {len(found)} published systems. Written by `{COMMAND}`; `autotc list "
        "papers` prints the same, with filters, and `--json`.",
        "",
        *_table(("status", "systems", "what it means"), _legend(found)),
        "",
        outside(),
    ]
    for status in counts(found):
        chosen = sorted((p for p in found if p.status == status), key=lambda p: p.title.casefold())
        lines += ["", f"## {status.capitalize()}", "", f"{STATUSES[status].capitalize()}.", ""]
        lines += _table(("system", "answer"), ((_link(p.title, p.arxiv), _cell(p.answer)) for p in chosen))
    return "\n".join(lines) + "\n"


def reducers_table() -> str:
    """Return every registered reducer as a Markdown table."""
    from autotc.reducer import reducers

    rows = (
        (
            f"`{cls.name}`",
            _link(cls.source.title, cls.source.arxiv),
            ", ".join(cls.sites),
            "yes" if cls.query_aware else "no",
            cls.fidelity,
        )
        for cls in reducers.all()
    )
    return "\n".join(_table(("name", "paper", "sites", "query-aware", "fidelity"), rows)) + "\n"


def readme_part() -> str:
    """Return what stands between the markers in the README."""
    from autotc.reducer import reducers

    n, seen = len(reducers.names()), Counter(p.status for p in papers())
    text = (
        f"Of {len(papers())} published systems {seen['reducer'] + seen['preset']} run here, {seen['planned']} wait for "
        f"videos or the cache, {seen['search strategy']} for a strategy of the search, and {seen['open']} could be "
        "written today. [The catalogue](studies/catalogue.md), or `autotc list papers`, has an answer for each, and "
        "says of the others why not."
    )
    return (
        f"{fill(text, 118, break_long_words=False)}\n\n<details>\n<summary>All {n} reducers</summary>\n\n"
        f"{reducers_table()}\n</details>\n"
    )


def with_part(readme: str) -> str:
    """Return a README with its part between the markers brought up to date."""
    before, rest = readme.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    return f"{before}{MARKS[0]}\n{readme_part()}{MARKS[1]}{after}"


def write(root: Path) -> None:
    """Write the generated pages of a checkout."""
    readme = root / "README.md"
    (root / "studies" / "catalogue.md").write_text(papers_page(), encoding="utf-8")
    readme.write_text(with_part(readme.read_text(encoding="utf-8")), encoding="utf-8")


def _legend(found: Sequence[Paper]) -> Iterable[tuple[str, ...]]:
    return (
        (f"[{status}](#{status.replace(' ', '-')})", str(n), STATUSES[status])
        for status, n in counts(found).items()
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [" | ".join(names), " | ".join("---" for _ in names), *(" | ".join(row) for row in rows)]
    return [f"| {line} |" for line in lines]


def _link(title: str, arxiv: str | None) -> str:
    return f"[{_cell(title)}](https://arxiv.org/abs/{arxiv})" if arxiv else _cell(title)


def _cell(text: str) -> str:
    """Return a text as a cell shows it, whatever it holds of Markdown."""
    return "".join(f"\\{c}" if c in "|[]<>*_" else c for c in text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
