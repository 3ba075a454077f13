"""Recombined parts: the combinations that are published rules, and what each part promises in every combination."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from autotc.reducer import make_reducer
from autotc.scoring import cosine
from autotc.search._dimensions import variants
from tests.contracts.reducer import make_view
from tests.fakes import FULL

SIGNALS, SELECTORS, MERGERS = (
    ("attention", "text", "both"),
    ("top", "half", "spread", "volume"),
    ("drop", "nearest"),
)


def test_top_attention_and_drop_is_fastervlm() -> None:
    view = make_view(40)
    ours = make_reducer("recombined", {"signal": "attention", "selector": "top", "merger": "drop"})
    theirs = make_reducer("fastervlm").assign(view, 11)
    assert ours.assign(view, 11).anchors.tolist() == theirs.anchors.tolist()


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("signal", SIGNALS)
def test_merging_keeps_the_same_tokens_and_loses_none(signal: str, selector: str) -> None:
    view = make_view(40, cut=True)
    dropped, merged = (
        make_reducer("recombined", {"signal": signal, "selector": selector, "merger": how}).assign(view, 9)
        for how in MERGERS
    )
    assert dropped.anchors.tolist() == merged.anchors.tolist() and dropped.anchors.shape == (1, 9)
    assert float(merged.sizes(view.size).sum()) == float(view.size.sum())
    matrix, alike = merged.dense(view.size)[0], cosine(view.x)[0]
    kept = merged.anchors[0].tolist()
    for token in set(range(40)) - set(kept):
        best = max(kept, key=lambda k: float(alike[token, k]))
        assert matrix[:, token].nonzero().flatten().tolist() == [kept.index(best)]


def test_half_keeps_the_highest_and_then_the_farthest() -> None:
    view = make_view(40)
    half = make_reducer("recombined", {"signal": "attention", "merger": "drop"}).assign(view, 10)
    top = make_reducer("fastervlm").assign(view, 5)
    chosen = set(top.anchors[0].tolist())
    assert chosen < set(half.anchors[0].tolist())
    alike = cosine(view.x)[0]
    while len(chosen) < 10:
        rest = [i for i in range(40) if i not in chosen]
        chosen.add(min(rest, key=lambda i: max(float(alike[i, j]) for j in chosen)))
    assert chosen == set(half.anchors[0].tolist())


def test_volume_prefers_what_matters_among_equals() -> None:
    view = make_view(12)
    view.x = torch.eye(12)[None]
    attention = torch.linspace(0.1, 0.9, 12).expand(1, 2, 12).clone()
    view.signals = {"cls_attention": attention, "text_embeds": torch.ones(1, 1, 12)}
    view.text_valid = None
    kept = make_reducer("recombined", {"signal": "attention", "selector": "volume", "merger": "drop"}).assign(
        view, 4
    )
    assert kept.anchors[0].tolist() == [8, 9, 10, 11]


def test_a_search_may_take_every_combination() -> None:
    found = {tuple(sorted(v.items())) for v in variants(type(make_reducer("recombined")), FULL)}
    assert len(found) == len(list(product(SIGNALS, SELECTORS, MERGERS)))
