"""`autotc show` leaves nothing out for any registered reducer, and where it says one may stand is true."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from autotc.adapter import adapters, anatomy
from autotc.apply import check
from autotc.errors import AutotcError
from autotc.policy import ModelRef, Policy, Stage
from autotc.reducer import reducers
from autotc.tables import facts, shows

HEADS = (
    "Source",
    "Kind",
    "Looks at",
    "Parameters",
    "Cost",
    "Differs from the original",
    "Presets (of 576 tokens, as published)",
    "Where it may stand",
)


@pytest.fixture
def printed(monkeypatch):
    """Print a reducer at 100 columns; returns the lines."""

    def run(name: str) -> list[str]:
        out = io.StringIO()
        monkeypatch.setattr(shows, "console", Console(file=out, width=100, highlight=False))
        shows.print_reducer(facts.reducer_facts(name))
        return [line.rstrip() for line in out.getvalue().splitlines()]

    return run


@pytest.mark.parametrize("name", reducers.names())
def test_no_section_is_empty_and_every_line_fits(printed, name):
    lines = printed(name)
    assert lines[0] == f"{name}  {reducers.get(name).title}"
    assert lines[1].startswith("  ")
    found = [line for line in lines[1:] if line and not line.startswith(" ")]
    assert found == list(HEADS)
    for head in HEADS:
        assert lines[lines.index(head) + 1].startswith("  "), head
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", reducers.names())
def test_facts_are_complete_plain_data(name):
    found = json.loads(json.dumps(facts.reducer_facts(name), allow_nan=False))
    for key in ("does", "title", "differs", "sites", "families"):
        assert found[key], key
    assert found["cost"]["text"]
    assert math.isfinite(found["cost"]["flops"]) and found["cost"]["flops"] >= 0
    sizes = {"n": 576, "k": 192, "d": 4096, "heads": 32, "head_dim": 128, "text": 64, "kv_heads": 32}
    assert found["cost"]["at"] == sizes
    assert set(found["signals"]) == set(found["needs"])
    assert all(p["help"] for p in found["parameters"])
    for preset in found["presets"]:
        assert preset["note"] and preset["stages"]
        tokens = [stage["tokens"] for stage in preset["stages"]]
        assert tokens == sorted(tokens, reverse=True)
        assert 0 <= tokens[-1] < 576
    assert [family["family"] for family in found["families"]] == list(adapters.names())


def test_published_counts_of_a_recipe():
    stages = facts.reducer_facts("pyramiddrop")["presets"][0]["stages"]
    assert [(s["site"], s["layer"], s["of"], s["tokens"]) for s in stages] == [
        ("decoder", 8, 32, 288),
        ("decoder", 16, 32, 144),
        ("decoder", 24, 32, 72),
    ]


@pytest.mark.parametrize("name", reducers.names())
@pytest.mark.parametrize("family", adapters.names())
def test_where_it_may_stand_is_what_compress_accepts(name, family):
    cls, adapter = reducers.get(name), adapters.get(family)
    said = facts.place(cls, adapter)
    numbers = anatomy(next(iter(adapter.aliases)))
    model = ModelRef(
        family=family,
        id=numbers.id,
        decoder_layers=numbers.decoder.layers,
        vision_blocks=numbers.vision.blocks,
    )
    accepted = []
    for site in cls.sites:
        layer = 2 if site in ("vision", "decoder") else None
        stage = Stage(site=site, layer=layer, reducer=name, keep=0.0 if cls.withdraws else 0.5)
        try:
            check(Policy(model=model, stages=(stage,)), numbers)
        except AutotcError as error:
            reasons = [said["refused"][site]] if site in said["refused"] else said["missing"]
            assert reasons and all(reason in str(error) or "size bias" in str(error) for reason in reasons)
        else:
            accepted.append(site)
    assert said["sites"] == accepted
    assert set(said["instead"]) <= set(cls.needs)


def test_a_method_that_ships_without_a_paper_is_called_own() -> None:
    own = {cls.name for cls in reducers.all() if cls.fidelity == "own"}
    assert own == {cls.name for cls in reducers.all() if cls.source.arxiv is None} >= {"random", "recombined"}
