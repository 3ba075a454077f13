"""Shared scores and selections."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotc import kernels, scoring


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=2, max_size=2),
    st.lists(st.integers(0, 6), min_size=2, max_size=2),
    st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=2, max_size=2),
)
def test_top_mask_breaks_ties_low(scores: list, count: list, valid: list) -> None:
    mask = scoring.top_mask(torch.tensor(scores).float(), torch.tensor(count), torch.tensor(valid))
    for row in range(2):
        allowed = [i for i in range(6) if valid[row][i]]
        best = sorted(allowed, key=lambda i: (-scores[row][i], i))[: count[row]]
        assert mask[row].nonzero()[:, 0].tolist() == sorted(best)


def test_infinite_and_missing_scores_come_after_real_ones() -> None:
    scores = torch.tensor([[float("nan"), -torch.inf, 0.0, 5.0]])
    assert scoring.ranking(scores).tolist() == [[3, 2, 0, 1]]
    valid = torch.tensor([[True, True, True, False]])
    assert scoring.ranking(scores, valid).tolist() == [[2, 0, 1, 3]]


def test_rank_of_inverts_an_order() -> None:
    order = torch.tensor([[2, 0, 3, 1]])
    assert scoring.rank_of(order).tolist() == [[1, 3, 0, 2]]
    assert scoring.order_mask(order, 2, 5).tolist() == [[True, False, True, False, False]]


def test_heads_are_reduced_in_float32() -> None:
    attention = torch.tensor([[[1.0, 2.0], [3.0, 2.0]]], dtype=torch.float16)
    assert scoring.heads(attention).tolist() == [[2.0, 2.0]]
    assert scoring.heads(attention, "sum").tolist() == [[4.0, 4.0]]
    assert scoring.heads(attention, "max").tolist() == [[3.0, 2.0]]
    assert scoring.heads(attention).dtype is torch.float32


def test_cosine_of_a_zero_row_is_zero() -> None:
    x = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    assert torch.equal(scoring.cosine(x)[0, 0], torch.zeros(2))
    torch.testing.assert_close(scoring.cosine(x)[0, 1, 1], torch.tensor(1.0))


def test_nearest_is_the_first_of_the_best_candidates() -> None:
    similarity = torch.tensor([[[9.0, 1.0, 1.0], [0.0, 1.0, 2.0]]])
    assert scoring.nearest(similarity, torch.tensor([[False, True, True]])).tolist() == [[1, 2]]


def test_density_peaks_finds_separate_groups() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    jitter = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)) * 0.1
    x = (centres.repeat_interleave(10, 0) + jitter)[None]
    picked, labels = scoring.density_peaks(x, 3)
    assert sorted((picked[0] // 10).tolist()) == [0, 1, 2]
    for group in labels[0].view(3, 10):
        assert len(set(group.tolist())) == 1
    assert labels[0, picked[0]].tolist() == [0, 1, 2]


def test_density_peaks_gives_equal_points_their_own_clusters() -> None:
    picked, labels = scoring.density_peaks(torch.ones(1, 5, 2), 3)
    assert picked.tolist() == [[0, 1, 2]]
    assert labels.tolist() == [[0, 1, 2, 0, 0]]


def test_density_peaks_ignores_padding() -> None:
    x = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(2, 16, dtype=torch.bool)
    valid[0, 12:] = False
    wide = torch.cat((torch.nn.functional.pad(x, (0, 0, 0, 4), value=50.0), torch.randn(1, 16, 3)))
    picked, labels = scoring.density_peaks(wide, torch.tensor([4, 6]), valid)
    alone = scoring.density_peaks(x, 4)
    assert picked[0, :4].tolist() == alone[0][0].tolist()
    assert labels[0, :12].tolist() == alone[1][0].tolist() and (labels[0, 12:] == -1).all()


def test_farthest_respects_counts() -> None:
    x = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(2))
    picks = scoring.farthest(x, torch.tensor([9, 3]))
    assert sorted(picks[0].tolist()) == list(range(9))
    assert picks[1, :3].tolist() == scoring.farthest(x[1:], 3)[0].tolist()


def test_top_in_groups_ranks_each_group_by_itself() -> None:
    scores = torch.tensor([[5.0, 1.0, 3.0, 3.0, 9.0, 2.0], [1.0, 2.0, 3.0, 4.0, 9.0, 9.0]])
    groups = torch.tensor([[0, 0, 0, 2, 2, 2], [1, 1, 1, 1, 0, 0]])
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    chosen = scoring.top_in_groups(scores, groups, torch.tensor([2, 1]), valid)
    assert [row.nonzero()[:, 0].tolist() for row in chosen] == [[0, 2, 3, 4], [3]]
    tied = scoring.top_in_groups(torch.ones(1, 6), groups[:1], 1, valid[:1])
    assert tied[0].nonzero()[:, 0].tolist() == [0, 3]


def test_fold_hands_on_sums() -> None:
    metric = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]]])
    valid, ones = torch.tensor([[True] * 4 + [False]]), torch.ones(1, 5)
    seen = []

    def match(metric: torch.Tensor, valid: torch.Tensor, away: torch.Tensor, summed: torch.Tensor):
        seen.append(summed[valid].tolist())
        return kernels.bipartite_match(metric, away.clamp_max(1 if len(seen) == 1 else 2), valid)

    target = scoring.fold(metric, ones, 1, valid, match, torch.tensor([[1.0, 2.0, 4.0, 8.0, 99.0]]))
    assert seen[0] == [1.0, 2.0, 4.0, 8.0]
    assert all(sum(sums) == 15.0 for sums in seen) and len(seen[-1]) < 4
    assert target[0, :4].unique().numel() == 1 and target[0, 4] == -1


def test_bounded_peaks_are_those_of_a_visit_by_density() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(3, 40, 2, generator=random)
    distance = torch.cdist(x, x)
    valid = torch.arange(40)[None] < torch.tensor([40, 25, 1])[:, None]
    cutoff = torch.tensor([0.2, 0.3, 0.1])
    marked = scoring.bounded_peaks(distance, cutoff, valid)
    for row, n in enumerate(valid.sum(1).tolist()):
        apart = distance[row, :n, :n]
        density = (-((apart / 2) ** 2)).exp().sum(1)
        marks: list[int] = []
        for i in density.argsort(descending=True).tolist():
            if all(float(apart[i, j]) > float(cutoff[row]) for j in marks):
                marks.append(i)
        assert marked[row].nonzero()[:, 0].tolist() == sorted(marks)
    assert marked.sum(1).tolist()[0] > 5 and marked[2].sum() == 1


def test_bounded_peaks_of_equal_points_is_the_first() -> None:
    assert scoring.bounded_peaks(torch.zeros(1, 4, 4), 0.0, torch.ones(1, 4).bool()).tolist() == [
        [True, False, False, False]
    ]


def test_spread_adds_the_least_similar_to_what_is_chosen() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 3, generator=random)
    valid = torch.arange(9)[None] < torch.tensor([9, 6])[:, None]
    chosen = torch.zeros(2, 9).bool()
    chosen[0, [4, 7]] = True
    for by, total in (("nearest", max), ("sum", sum)):
        found = scoring.spread(x, chosen, torch.tensor([6, 4]), valid, by)
        for row, (have, k) in enumerate((([4, 7], 6), ([], 4))):
            unit = [v / v.norm() for v in x[row, valid[row]]]
            have = list(have)
            while len(have) < k:
                close = [total([float(v @ unit[i]) for i in have] or [0.0]) for v in unit]
                have.append(min((c, i) for i, c in enumerate(close) if i not in have)[1])
            assert found[row].nonzero()[:, 0].tolist() == sorted(have), by
    assert torch.equal(scoring.spread(x, chosen, 1, valid)[0], chosen[0])


def test_spread_takes_tokens_without_a_number_last_and_none_twice() -> None:
    x = torch.ones(1, 5, 2)
    x[0, 1] = torch.nan
    for by in ("nearest", "sum"):
        for k, picked in ((1, [0]), (3, [0, 2, 3]), (5, [0, 1, 2, 3, 4])):
            found = scoring.spread(x, torch.zeros(1, 5).bool(), k, torch.ones(1, 5).bool(), by)
            assert found[0].nonzero()[:, 0].tolist() == picked


def test_cells_are_squares_of_the_grid() -> None:
    where = scoring.cells(torch.arange(24)[None], [(2, 3, 4)], 2)[0]
    first = [[0, 0, 1, 1], [0, 0, 1, 1], [4, 4, 5, 5]]
    assert where[:12].reshape(3, 4).tolist() == first
    assert where[12:].reshape(3, 4).tolist() == [[12 + i for i in row] for row in first]
    ragged = scoring.cells(torch.tensor([[0, 5, 6], [2, 3, 0]]), [(1, 3, 3), (1, 2, 2)], 1.5)
    assert ragged.tolist() == [[0, 1, 3], [0, 0, 0]]
