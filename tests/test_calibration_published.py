"""What the published tables decide, against figures computed by hand from the same tables."""

from __future__ import annotations

from itertools import combinations

import pytest
from scipy.stats import kendalltau

from autotc.calibration import published as pub

SEVEN = ("GQA", "MMB", "MME", "POPE", "SQA-IMG", "VQAv2", "VQA-Text")
COPIED = {
    1 / 3: {
        "VScan": 98.71,
        "VisionZip": 97.77,
        "PyramidDrop": 96.39,
        "SparseVLM": 95.93,
        "ToMe": 88.49,
        "FastV": 87.75,
    },
    2 / 9: {
        "VScan": 98.04,
        "VisionZip": 96.21,
        "PyramidDrop": 95.20,
        "SparseVLM": 93.27,
        "ToMe": 80.38,
        "FastV": 81.22,
    },
    1 / 9: {
        "VScan": 95.90,
        "VisionZip": 92.74,
        "PyramidDrop": 84.46,
        "SparseVLM": 86.52,
        "ToMe": 70.12,
        "FastV": 71.10,
    },
}


def rows(table: str, budget: float, independent: bool = False) -> dict[str, pub.Entry]:
    found = [e for e in pub.entries() if e.table == table and e.budget == budget]
    return {e.method: e for e in found if e.independent or not independent}


def mean(entry: pub.Entry, columns: tuple[str, ...]) -> float:
    return sum(entry.retention[c] for c in columns) / len(columns)


@pytest.mark.parametrize("budget", pub.BUDGETS)
def test_mean_retentions_of_the_copied_table(budget: float) -> None:
    found = rows("vscan_llava15_7b", budget)
    assert {name: round(mean(e, SEVEN), 2) for name, e in found.items()} == COPIED[budget]


@pytest.mark.parametrize(
    ("table", "independent", "pairs", "decided"),
    [("vscan_llava15_7b", False, 15, (11, 14, 13)), ("restore_llava15_7b", True, 28, (2, 8, 14))],
)
def test_decided_pairs(table: str, independent: bool, pairs: int, decided: tuple[int, ...]) -> None:
    for budget, expected in zip(pub.BUDGETS, decided, strict=True):
        found = [
            pub.duel(a, b, columns=SEVEN)
            for a, b in combinations(rows(table, budget, independent).values(), 2)
        ]
        assert len(found) == pairs
        assert sum(d is not None and d.decided != 0 for d in found) == expected


def test_undecided_pairs_are_the_named_ones() -> None:
    found = rows("vscan_llava15_7b", 1 / 3)
    open_ = {
        frozenset((a, b))
        for a, b in combinations(found, 2)
        if not pub.duel(found[a], found[b], columns=SEVEN).decided  # type: ignore[union-attr]
    }
    pairs = (
        ("VScan", "VisionZip"),
        ("VisionZip", "PyramidDrop"),
        ("PyramidDrop", "SparseVLM"),
        ("ToMe", "FastV"),
    )
    assert open_ == {frozenset(p) for p in pairs}


def test_columns_won_and_gap() -> None:
    found = rows("vscan_llava15_7b", 1 / 9)
    one = pub.duel(found["SparseVLM"], found["PyramidDrop"], columns=SEVEN)
    assert one is not None
    assert (one.wins[0], round(one.gap, 2), one.decided, one.better) == (3, 2.06, 0, 1)


def test_copied_and_independent_rankings_hardly_agree() -> None:
    names = ("ToMe", "FastV", "SparseVLM", "PyramidDrop", "VisionZip")
    taus = []
    for budget in pub.BUDGETS:
        copied, again = rows("vscan_llava15_7b", budget), rows("restore_llava15_7b", budget)
        taus.append(kendalltau(*([mean(t[n], SEVEN) for n in names] for t in (copied, again))).statistic)
    assert taus == pytest.approx([0.2, 0.0, 0.4])


@pytest.mark.parametrize(
    ("budget", "retention", "rank"), [(1 / 3, 97.3, 6), (2 / 9, 93.6, 6), (1 / 9, 86.9, 7)]
)
def test_where_random_tokens_stand(budget: float, retention: float, rank: int) -> None:
    found = rows("uniprunebench_llava15_7b", budget)
    assert round(found["random"].mean, 1) == retention  # without the column that the notes call broken
    assert sum(e.mean > found["random"].mean for e in found.values()) + 1 == rank


@pytest.mark.parametrize(
    ("method", "printed"), [("random", 95.0), ("pooling", 96.4), ("FastV", 89.8), ("SparseVLM", 93.5)]
)
def test_a_table_of_144_tokens(method: str, printed: float) -> None:
    # the source rounds cells and means: they agree to 0.1
    assert rows("rightproblem_llava15_7b", 2 / 9)[method].mean == pytest.approx(printed, abs=0.1)


def test_smaller_images_lead_on_qwen2_vl() -> None:
    found = {(e.keep, e.method): e.mean for e in pub.entries() if e.table == "vtcbench_qwen2vl_7b"}
    means = [round(found[keep, "downsample"], 1) for keep in (0.25, 0.1111, 0.0625, 0.04, 0.01)]
    assert means == [91.0, 77.6, 71.0, 66.4, 55.4]
    assert round(max(v for (keep, m), v in found.items() if keep == 0.25 and m != "downsample"), 1) == 84.9


def test_budget_of_a_share() -> None:
    assert [pub.budget_of(k) for k in (0.333, 0.2969, 0.25, 0.1982, 0.1111, 0.5, 0.0625)] == [
        1 / 3, 1 / 3, 2 / 9, 2 / 9, 1 / 9, None, None,
    ]  # fmt: skip


def duel(source: str, decided: int, table: str = "", pair: tuple[str, str] = ("a", "b")) -> pub.Duel:
    return pub.Duel(source, table or source, 1 / 9, pair, decided or 1, decided, 2.0 * decided, (4, 0), 4)


def test_a_yardstick_pair_needs_two_sources_and_no_dissent() -> None:
    assert pub.yardstick([duel("x", 1), duel("x", 1, "another table")]) == []
    assert pub.yardstick([duel("x", 1), duel("y", 0)]) == []
    assert pub.yardstick([duel("x", 1), duel("y", 1), duel("z", -1)]) == []
    assert pub.yardstick([duel("x", -1), duel("y", -1), duel("z", 0)]) == [
        pub.Settled(1 / 9, "b", "a", ("x", "y"))
    ]


def test_the_yardstick_is_the_one_of_the_protocol() -> None:
    llava = pub.yardstick(pub.duels([e for e in pub.entries() if e.family == "llava"]))
    assert len(llava) == 13
    assert len({name for s in llava for name in (s.winner, s.loser)}) == 7
    assert pub.Settled(1 / 9, "SparseVLM", "FastV", ("restore", "uniprunebench", "vscan")) in llava
    assert pub.yardstick(pub.duels([e for e in pub.entries() if e.family == "qwen2_5_vl"])) == []
    everywhere = pub.duels(pub.entries())
    assert {(s.budget, s.winner, s.loser) for s in pub.yardstick(everywhere)} == {
        (s.budget, s.winner, s.loser) for s in llava
    }
    assert len(pub.contradicted(everywhere)) == 9


def test_authors_own_rows_decide_nothing() -> None:
    found = pub.duels(pub.entries())
    assert not any("RESTORE" in name for d in found for name in d.pair)
    assert not any("VScan" in d.pair for d in found)
    assert not any("DART" in d.pair for d in found if d.source == "vtcbench")
    assert any("DART" in d.pair for d in found if d.source == "uniprunebench")


def test_broken_cells_are_out() -> None:
    entries = {(e.table, e.method, e.budget): e for e in pub.entries()}
    assert "MMB-CN" not in entries["uniprunebench_llava15_7b", "FastV", 1 / 9].retention
    assert "MME" not in entries["restore_qwen25vl_7b", "VisPruner", 1 / 9].retention
    assert "MME" in entries["restore_qwen25vl_7b", "VisPruner", 1 / 3].retention
    assert ("uniprunebench_qwen25vl_7b", "GPrune", 1 / 3) not in entries
    assert ("uniprunebench_qwen25vl_7b", "GPrune", 1 / 9) in entries
