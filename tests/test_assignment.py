"""The algebra of assignments: sparse and dense agree, products compose, sizes add up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotc.assignment import Assignment, identity, merge, pool, select, select_indices


def random_merge(generator: torch.Generator, b: int, n: int, normalise: str) -> Assignment:
    heads = torch.rand(b, n, generator=generator) < 0.5
    heads[:, 0] = True
    choice = torch.rand(b, n, n, generator=generator).masked_fill(~heads[:, None], -1).argmax(2)
    target = torch.where(heads, torch.arange(n).expand(b, n), choice)
    target[torch.rand(b, n, generator=generator) < 0.1] = -1
    target[~heads & (target >= 0) & ((target.gather(1, target.clamp_min(0))) < 0)] = -1
    own = torch.arange(n).expand(b, n)
    target = torch.where(heads & (target < 0), own, target)
    return merge(target, torch.rand(b, n, generator=generator) + 0.1, normalise)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 17), st.sampled_from(["size", "count", "none"])
)
def test_sparse_equals_dense(seed, b, n, normalise):
    generator = torch.Generator().manual_seed(seed)
    a = random_merge(generator, b, n, normalise)
    x = torch.randn(b, n, 5, generator=generator, dtype=torch.float64)
    size = torch.randint(1, 5, (b, n), generator=generator).double()
    torch.testing.assert_close(a.apply(x, size), a.dense(size).double() @ x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a.sizes(size), ((a.dense() > 0).double() @ size[..., None])[..., 0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_composing_is_applying_one_after_the_other(seed, n):
    generator = torch.Generator().manual_seed(seed)
    first = random_merge(generator, 1, n, "size")
    k = first.anchors.shape[1]
    second = random_merge(generator, 1, k, "size")
    x = torch.randn(1, n, 3, generator=generator, dtype=torch.float64)
    size = torch.randint(1, 4, (1, n), generator=generator).double()
    both = first.compose(second, size)
    step = second.apply(first.apply(x, size), first.sizes(size))
    torch.testing.assert_close(both.apply(x), step, rtol=1e-5, atol=1e-6)
    assert torch.equal(both.anchors, first.anchors.gather(1, second.anchors))
    torch.testing.assert_close(both.sizes(size), second.sizes(first.sizes(size)))


def test_select_keeps_order_and_pads_uneven_rows():
    a = select(torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0]]).bool())
    assert a.anchors.tolist() == [[0, 2, 3], [1, 0, 0]]
    assert a.valid.tolist() == [[True, True, True], [True, False, False]]
    assert a.kept.tolist() == [3, 1]
    assert a.one_hot
    x = torch.arange(8.0).view(2, 4, 1)
    assert a.apply(x)[..., 0].tolist() == [[0, 2, 3], [5, 0, 0]]


def test_select_indices_sorts_and_drops_padding():
    a = select_indices(torch.tensor([[3, 1], [2, 0]]), 4, torch.tensor([[True, True], [True, False]]))
    assert a.anchors.tolist() == [[1, 3], [2, 0]]
    assert a.kept.tolist() == [2, 1]


def test_identity_is_bit_identical():
    x = torch.randn(2, 7, 3)
    assert torch.equal(identity(2, 7).apply(x), x)


def test_merge_normalises_by_size_by_count_and_not_at_all():
    target, x = torch.tensor([[0, 0, 2]]), torch.tensor([[[1.0], [4.0], [9.0]]])
    size = torch.tensor([[1.0, 3.0, 1.0]])
    assert merge(target).apply(x, size)[0, 0].item() == pytest.approx((1 + 3 * 4) / 4)
    assert merge(target, normalise="count").apply(x, size)[0, 0].item() == pytest.approx(2.5)
    assert merge(target, normalise="none").apply(x, size)[0, 0].item() == pytest.approx(5.0)
    assert merge(target).sizes(size).tolist() == [[4.0, 1.0]]


def test_pool_sorts_rows_by_place():
    matrix = torch.tensor([[[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]])
    a = pool(matrix, torch.tensor([[2, 0]]))
    assert a.anchors.tolist() == [[0, 2]]
    assert a.dense()[0].tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]


def test_low_precision_sums_in_float32():
    x = torch.full((1, 2048, 1), 0.1, dtype=torch.bfloat16)
    merged = merge(torch.zeros(1, 2048, dtype=torch.long)).apply(x, torch.ones(1, 2048))
    assert merged.dtype == torch.bfloat16
    assert merged.item() == x[0, 0, 0].item()


def test_composing_a_batch_with_uneven_rows_is_the_product_of_the_matrices():
    generator = torch.Generator().manual_seed(3)
    first = select(torch.tensor([[1, 0, 1, 1, 1], [0, 1, 1, 0, 0]]).bool())
    mixed = torch.rand(2, 3, 4, generator=generator) * first.valid[:, None]
    second = pool(mixed, torch.tensor([[0, 2, 3], [0, 1, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool())
    both = first.compose(second)
    torch.testing.assert_close(both.dense(), second.dense() @ first.dense())
    assert both.anchors.tolist() == [[0, 3, 4], [1, 2, 0]]
    assert both.kept.tolist() == [3, 2]
    nothing = select(torch.zeros(2, 3, dtype=torch.bool))
    assert both.compose(nothing).kept.tolist() == [0, 0]
    assert nothing.compose(select(torch.zeros(2, 0, dtype=torch.bool))).kept.tolist() == [0, 0]
