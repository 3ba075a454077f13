"""The catalogue answers for every published system, and its answers agree with the registry and with its facts."""

from __future__ import annotations

import difflib
import re
from importlib.resources import files

import pytest

from autotc import catalogue
from autotc.catalogue import STATUSES, counts, listed, papers, select, unlisted
from autotc.errors import SpecError
from autotc.reducer import Reducer, Source, reducers

BY_TITLE = {p.title: p for p in papers()}


def test_it_ships_with_the_package_and_holds_every_system_once():
    assert files("autotc").joinpath("catalogue.json").is_file()
    assert len(papers()) == len(BY_TITLE) == 355
    ids = [p.arxiv for p in papers() if p.arxiv]
    assert len(ids) == len(set(ids)) == 310
    assert all(re.fullmatch(r"\d{4}\.\d{4,5}", arxiv) for arxiv in ids)


@pytest.mark.parametrize("paper", papers(), ids=lambda p: p.arxiv or p.title)
def test_every_answer_says_something(paper):
    assert paper.status in STATUSES
    assert paper.why.strip() and paper.answer.strip()
    assert bool(paper.reducers) == (paper.status == "reducer")
    assert bool(paper.waits_for) == (paper.status == "planned")
    assert bool(paper.preset) == (paper.status == "preset")
    assert set(paper.waits_for) <= {"cache", "videos", "assisted decoding"}
    assert paper.year is None or 2020 <= paper.year <= 2026


def test_presets_that_stand_for_a_paper_exist():
    known = {preset.name for cls in reducers.all() for preset in cls.presets}
    assert {p.preset for p in listed() if p.preset} <= known


@pytest.mark.parametrize("cls", reducers.all(), ids=lambda cls: cls.name)
def test_every_reducer_is_found_at_its_paper_or_is_beside_the_catalogue(cls):
    owners = [p for p in papers() if cls.name in p.reducers]
    same_id = [p for p in papers() if p.arxiv and p.arxiv == cls.source.arxiv]
    if same_id:
        assert owners == same_id
        assert owners[0].status == "reducer"
    elif not owners:
        assert cls in unlisted()
        # neither a slip in an arXiv id nor one in a title keeps a reducer away from its paper
        assert not difflib.get_close_matches(cls.source.title, BY_TITLE, n=1, cutoff=0.75)
        assert cls.source.arxiv or cls.source.title.startswith(("Baseline", "Own"))


def test_no_answer_of_a_paper_contradicts_its_reducer():
    """What the catalogue says without the registry may be overtaken by a reducer, but not be refuted by one."""
    implemented = {p.title for p in papers() if p.status == "reducer"}
    said = {p.title: p.status for p in listed() if p.title in implemented}
    assert {t: s for t, s in said.items() if s not in ("open", "no specification", "planned")} == {}


def test_a_method_that_registers_later_becomes_a_reducer_without_an_edit(monkeypatch):
    paper = next(p for p in listed() if p.status == "planned" and p.arxiv)
    nameless = next(p for p in listed() if p.status == "open" and not p.arxiv)

    def late(name: str, source: Source) -> type[Reducer]:
        return type(name, (Reducer,), {"name": name, "title": name, "source": source, "sites": ("decoder",)})

    new = (late("by_id", Source("any title", paper.arxiv)), late("by_title", Source(nameless.title.upper())))
    monkeypatch.setattr(reducers, "all", lambda: new)
    catalogue.papers.cache_clear()
    try:
        found = {p.title: p for p in papers()}
    finally:
        monkeypatch.undo()
        catalogue.papers.cache_clear()
    assert found[paper.title].reducers == ("by_id",)
    assert found[paper.title].status == "reducer" and not found[paper.title].waits_for
    assert found[nameless.title].reducers == ("by_title",)
    assert counts(found.values())["reducer"] == 2


@pytest.mark.parametrize("paper", listed(), ids=lambda p: p.arxiv or p.title)
def test_answers_agree_with_the_facts_beside_them(paper):
    if "no code is listed" in paper.why:
        assert paper.repo is None
    if "the repository listed" in paper.why:
        assert paper.repo is not None
    if "neither an arXiv id nor code" in paper.why:
        assert (paper.arxiv, paper.repo) == (None, None)
    if paper.kind == "language":
        assert paper.status in ("other subject", "search strategy")
    if paper.kind == "hardware":
        assert paper.status == "hardware"
    if paper.kind in ("generation", "ssm"):
        assert paper.status in ("other model", "other subject")
    if paper.kind == "kv-cache":
        assert "cache" in paper.waits_for
    if paper.kind == "video, training-free":
        assert "videos" in paper.waits_for or paper.status in ("no specification", "other subject")
    if paper.kind.endswith("training-free") and paper.status == "needs training":
        assert "although listed as training-free" in paper.why or "trained" in paper.why
    if paper.tags.get("training_free") == ["No"]:
        assert paper.status not in ("open", "planned", "preset")


def test_select_narrows_by_status_and_words():
    assert {p.status for p in select(["needs-training", "Study"])} == {"needs training", "study"}
    assert [p.arxiv for p in select(text="fastv LLaMA-VID")] == []
    assert "2403.06764" in {p.arxiv for p in select(text="PKUNLP 2 layer")}
    with pytest.raises(SpecError, match="Did you mean 'planned'"):
        select(["planed"])
