"""What is generated from the registry is up to date: run `make catalogue` where one of these fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autotc.catalogue import papers
from autotc.errors import SpecError
from autotc.reducer import reducers
from autotc.tables import pages

ROOT = Path(__file__).parent.parent


def test_the_committed_catalogue_is_the_generated_one():
    assert (ROOT / "studies" / "catalogue.md").read_text(encoding="utf-8") == pages.papers_page()


def test_the_readme_lists_the_registered_reducers():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert pages.with_part(readme) == readme


def test_pages_are_tables_that_render():
    for page in (pages.papers_page(), pages.reducers_table()):
        rows = [line for line in page.splitlines() if line.startswith("|")]
        for row in rows:
            cells = len(re.findall(r"(?<!\\)\|", row)) - 1
            assert cells in (2, 3, 5), row
    assert len([line for line in pages.reducers_table().splitlines() if line.startswith("| `")]) == len(
        reducers.names()
    )
    links = re.findall(r"\(#([a-z-]+)\)", pages.papers_page())
    titles = re.findall(r"^## (.*)$", pages.papers_page(), re.M)
    assert links == [title.lower().replace(" ", "-") for title in titles]
    assert all(pages.papers_page().count(f"abs/{p.arxiv})") == 1 for p in papers() if p.arxiv)


def test_write_brings_a_checkout_up_to_date(tmp_path):
    (tmp_path / "studies").mkdir()
    old = f"before\n{pages.MARKS[0]}\nstale\n{pages.MARKS[1]}\nafter\n"
    (tmp_path / "README.md").write_text(old, encoding="utf-8")
    pages.write(tmp_path)
    new = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert new.startswith("before\n") and new.endswith("\nafter\n")
    assert "stale" not in new and "| `fastv` |" in new
    assert (tmp_path / "studies" / "catalogue.md").read_text(encoding="utf-8") == pages.papers_page()


def test_an_unknown_page_is_refused():
    with pytest.raises(SpecError, match="no page of 'models'"):
        pages.page("models")
