"""The reference operations against plain loops."""

import torch
from torch import Tensor

from autotc import kernels


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padded(n: int, counts: tuple[int, ...]) -> Tensor:
    return torch.arange(n)[None] < torch.tensor(counts)[:, None]


def test_greedy_select_is_max_min() -> None:
    x, valid, count = rand(2, 17, 4), padded(17, (17, 11)), torch.tensor([6, 4])
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    picks = kernels.greedy_select(distance, count, valid)
    for row, n in enumerate((17, 11)):
        d = distance[row, :n, :n]
        alone = [min(d[j, i].item() for j in range(n) if j != i) for i in range(n)]
        chosen = [max(range(n), key=lambda i: (alone[i], -i))]
        while len(chosen) < count[row]:
            rest = [i for i in range(n) if i not in chosen]
            chosen.append(max(rest, key=lambda i: (min(d[c, i].item() for c in chosen), -i)))
        assert picks[row, : int(count[row])].tolist() == chosen


def test_greedy_select_starts_where_told_and_breaks_ties_low() -> None:
    distance = 1 - torch.eye(5)[None]
    count, valid = torch.tensor([3]), padded(5, (5,))
    assert kernels.greedy_select(distance, count, valid).tolist() == [[0, 1, 2]]
    assert kernels.greedy_select(distance, count, valid, start=torch.tensor([3])).tolist() == [[3, 0, 1]]
    # all points the same: still no point twice
    assert kernels.greedy_select(torch.zeros(1, 5, 5), torch.tensor([5]), valid).tolist() == [[0, 1, 2, 3, 4]]


def test_greedy_cover_raises_coverage_most() -> None:
    similarity, weight = rand(1, 7, 9).abs(), rand(1, 9, seed=1).abs()
    picks = kernels.greedy_cover(similarity, torch.tensor([4]), padded(9, (8,)), weight)[0].tolist()
    covered, chosen = [0.0] * 7, []
    for _ in range(4):
        gain = {
            j: sum(max(0.0, float(similarity[0, i, j]) - covered[i]) for i in range(7)) * float(weight[0, j])
            for j in range(8)
            if j not in chosen
        }
        chosen.append(max(gain, key=lambda j: (gain[j], -j)))
        covered = [max(c, float(similarity[0, i, chosen[-1]])) for i, c in enumerate(covered)]
    assert picks == chosen


def test_greedy_volume_maximises_the_determinant() -> None:
    x = rand(1, 10, 12).double()
    kernel = x @ x.transpose(1, 2)
    picks = kernels.greedy_volume(kernel, torch.tensor([5]), padded(10, (10,)))[0].tolist()
    chosen: list[int] = []
    for _ in range(5):
        volume = {
            j: torch.linalg.det(kernel[0][[*chosen, j]][:, [*chosen, j]]).item()
            for j in range(10)
            if j not in chosen
        }
        chosen.append(max(volume, key=lambda j: volume[j]))
    assert picks == chosen


def test_greedy_volume_goes_on_past_the_rank() -> None:
    x = rand(1, 6, 2)
    picks = kernels.greedy_volume(x @ x.transpose(1, 2), torch.tensor([6]), padded(6, (6,)))
    assert sorted(picks[0].tolist()) == list(range(6))


def test_bipartite_match_takes_the_best_edges() -> None:
    x, valid, count = rand(2, 13, 5), padded(13, (13, 8)), torch.tensor([4, 3])
    for prefix in (0, 1):
        target = kernels.bipartite_match(x, count, valid, prefix)
        for row, n in enumerate((13, 8)):
            even = [i for i in range(n) if (i + prefix) % 2 == 0]
            odd = [i for i in range(n) if (i + prefix) % 2]
            edge = {
                i: max((float(torch.cosine_similarity(x[row, i], x[row, j], 0)), j) for j in odd)
                for i in even
            }
            moved = sorted(even, key=lambda i: -edge[i][0])[: int(count[row])]
            expected = [edge[i][1] if i in moved else i for i in range(13)]
            assert target[row].tolist() == expected


def test_bipartite_match_with_fewer_receivers_and_a_penalty() -> None:
    x, valid, count = rand(2, 13, 5), padded(13, (13, 8)), torch.tensor([7, 3])
    penalty = rand(2, 13, seed=2).abs()
    for prefix, stride in ((0, 3), (1, 3), (1, 4), (0, 2)):
        target = kernels.bipartite_match(x, count, valid, prefix, stride, penalty)
        for row, n in enumerate((13, 8)):
            receives = [i for i in range(n) if (i + prefix) % stride == stride - 1]
            edge = {
                i: max((float(torch.cosine_similarity(x[row, i], x[row, j], 0)), j) for j in receives)
                for i in range(n)
                if i not in receives
            }
            most = min(int(count[row]), n * (stride - 1) // stride)
            moved = sorted(edge, key=lambda i: float(penalty[row, i]) - edge[i][0])[:most]
            assert target[row].tolist() == [edge[i][1] if i in moved else i for i in range(13)]


def test_bipartite_match_without_a_receiver_moves_nothing() -> None:
    target = kernels.bipartite_match(rand(1, 3, 5), torch.tensor([2]), padded(3, (3,)), 0, 4)
    assert target.tolist() == [[0, 1, 2]]


def test_bipartite_merge_weighs_by_size() -> None:
    x, size = rand(1, 4, 3), torch.tensor([[1.0, 2.0, 3.0, 1.0]])
    out, total = kernels.bipartite_merge(x, size, torch.tensor([[1, 1, 2, 1]]))
    assert total.tolist() == [[0.0, 4.0, 3.0, 0.0]]
    torch.testing.assert_close(out[0, 1], (x[0, 0] + 2 * x[0, 1] + x[0, 3]) / 4)
    torch.testing.assert_close(out[0, 2], x[0, 2])


def test_attention_received_is_the_column_mean() -> None:
    q, k, valid = rand(2, 3, 11, 4), rand(2, 3, 11, 4, seed=1), padded(11, (11, 6))
    got = kernels.attention_received(q, k, valid=valid, chunk=4)
    for row, n in enumerate((11, 6)):
        full = (q[row, :, :n] @ k[row, :, :n].transpose(-1, -2) / 2).softmax(-1).mean(1)
        torch.testing.assert_close(got[row, :, :n], full)
        assert (got[row, :, n:] == 0).all()
    torch.testing.assert_close(
        kernels.attention_row(q[:, :, 0], k)[0], (q[0, :, :1] @ k[0].transpose(-1, -2) / 2).softmax(-1)[:, 0]
    )
