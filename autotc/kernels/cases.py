"""Inputs of every operation that tests and benchmarks share: odd sizes, ties, one token, padding, batches.

Where an answer is indices, numbers are small multiples of a power of two, so that every implementation computes the
same sums whatever their order, and ties are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Make = Callable[[torch.device, torch.dtype], tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """One call of an operation.

    Args:
        operation: its name in `autotc.kernels`.
        name: what is special.
        make: gives the arguments for a device and a type.
        large: as large as a served model's; not for an emulator.
        typed: whether the type of the input matters (decisions on float32 maps have one type).
    """

    operation: str
    name: str
    make: Make
    large: bool = False
    typed: bool = False


def random(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers, the same everywhere."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dyadic(*shape: int, seed: int = 0, levels: int = 64) -> Tensor:
    """Return multiples of 1/levels in [-1, 1): exact in every type here where levels is at most 128, with ties."""
    drawn = torch.randint(-levels, levels, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.float() / levels


def padding(n: int, counts: tuple[int, ...]) -> Tensor:
    """Return (B, n) bool with the first of each row set."""
    return torch.arange(n)[None] < torch.tensor(counts)[:, None]


def signs(*shape: int, seed: int = 0) -> Tensor:
    """Return +1 and -1: rows of 4^k numbers have unit length after an exact division."""
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def _greedy(
    operation: str, n: int, counts: tuple[int, ...], picks: tuple[int, ...], seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    if operation == "greedy_volume":
        matrix = torch.stack([_blocks(n, seed + row) for row in range(len(counts))])
    else:
        matrix = dyadic(len(counts), n, n, seed=seed)
        matrix = matrix.abs() if operation == "greedy_cover" else matrix
    return matrix, torch.tensor(picks), padding(n, counts)


def _blocks(n: int, seed: int) -> Tensor:
    """Return a kernel (n, n) whose pivots lie well apart, whoever rounds how.

    Tokens are correlated by a half within blocks of four strewn over the sequence, so a pick leaves the others of its
    block 3/4, 2/3 or 5/8 of their variance; variances are distinct powers of 2^(1/64). Pivots are a thousandth apart
    or more.
    """
    drawn = torch.Generator().manual_seed(seed)
    place = torch.randperm(n, generator=drawn)
    scale = (torch.randperm(n, generator=drawn).double() / 128).exp2()
    block = place // 4
    alike = torch.where(block[:, None] == block[None], 0.5, 0.0).double().fill_diagonal_(1.0)
    return (alike * scale[:, None] * scale[None]).float()


def _greedy_case(operation: str, name: str, n: int, counts: tuple[int, ...], picks: tuple[int, ...]) -> Case:
    return Case(operation, name, lambda d, t: _to(d, *_greedy(operation, n, counts, picks)), n > 300)


def _weighted(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    similarity, count, valid = _greedy("greedy_cover", 37, (37, 20), (12, 7))
    similarity = similarity[:, :29]  # fewer rows than columns
    weight, add = dyadic(2, 37, seed=1, levels=8).abs(), dyadic(2, 37, seed=2, levels=8)
    return _to(device, similarity, count, valid, weight, add)


def _started(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    return _to(device, *_greedy("greedy_select", 19, (19,), (19,)), torch.tensor([7]))


def _flat(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    zeros = torch.zeros(1, 40, 40)
    zeros[:, :, ::2] = -0.0  # the two zeros are equal
    return _to(device, zeros, torch.tensor([40]), padding(40, (40,)))


def _attention(b: int, h: int, m: int, n: int, width: int, counts: tuple[int, ...] | None = None) -> Make:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
        q, k = random(b, h, m, width), random(b, h, n, width, seed=1)
        valid = None if counts is None else padding(n, counts).to(device)
        return q.to(device, dtype), k.to(device, dtype), None, valid

    return make


def _strided(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    q, k = (random(1, 33, 2, 24, seed=s).to(device, dtype).transpose(1, 2) for s in (0, 1))
    return q, k, 0.3


def _match(n: int, counts: tuple[int, ...], away: tuple[int, ...], prefix: int = 0, stride: int = 2) -> Make:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
        metric = signs(len(counts), n, 16)  # cosines are sixteenths: many ties
        return (
            metric.to(device, dtype),
            *_to(device, torch.tensor(away), padding(n, counts)),
            prefix,
            stride,
        )

    return make


def _penalised(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
    return (
        *_match(31, (31, 24), (15, 5), stride=3)(device, dtype),
        dyadic(2, 31, seed=3, levels=8).to(device),
    )


def _merge(b: int, n: int, width: int) -> Make:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
        place = torch.arange(n).expand(b, n)
        target = torch.where(place % 3 == 0, place, place // 5 * 3 % n)
        target = torch.where(place % 3 == 0, place, target - target % 3)
        size = torch.randint(1, 5, (b, n), generator=torch.Generator().manual_seed(0)).float()
        return random(b, n, width).to(device, dtype), size.to(device), target.to(device)

    return make


def _density(
    n: int, width: int, counts: tuple[int, ...], clusters: tuple[int, ...], noise: bool = False
) -> Make:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
        x = dyadic(len(counts), n, width, levels=8)
        jitter = random(len(counts), n, seed=4).to(device) * 1e-3 if noise else None
        return x.to(device, dtype), *_to(device, torch.tensor(clusters), padding(n, counts)), jitter

    return make


def _gather(b: int, n: int, k: int, width: int, heads: int = 2, head_dim: int = 8) -> Make:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
        drawn = torch.Generator().manual_seed(5)
        index = torch.stack([torch.randperm(n, generator=drawn)[:k].sort().values for _ in range(b)])
        tensors = [random(b, n, width), random(b, n, head_dim), random(b, heads, n, head_dim)]
        valid = padding(k, tuple(max(1, k - 3 * row) for row in range(b)))
        return [x.to(device, dtype) for x in tensors], *_to(device, index, valid)

    return make


def _sum(rows: int, out: int, width: int, entries: int) -> Make:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Any, ...]:
        drawn = torch.Generator().manual_seed(6)
        ends = torch.randint(0, entries + 1, (out - 1,), generator=drawn).sort().values
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), ends, torch.tensor([entries])])
        columns = torch.randint(0, rows, (entries,), generator=drawn)
        return random(rows, width).to(device, dtype), *_to(
            device, offsets, columns, torch.rand(entries, generator=drawn)
        )

    return make


def _to(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.to(device) for x in tensors)


def cases(large: bool = False) -> list[Case]:
    """Return the cases of every operation; with `large` those of served models too."""
    found = []
    for name in ("greedy_select", "greedy_cover", "greedy_volume"):
        found += [
            _greedy_case(name, "one token", 1, (1,), (1,)),
            _greedy_case(name, "odd sizes, padding, counts of their own", 43, (43, 30, 5), (20, 30, 2)),
            _greedy_case(name, "576 tokens, batch 8", 576, (576,) * 8, (64,) * 8),
            _greedy_case(name, "2,880 tokens", 2880, (2880,), (576,)),
        ]
    found += [
        Case("greedy_select", "a given start, all picked", _started),
        Case("greedy_select", "all equal", _flat),
        Case("greedy_cover", "weights, fewer rows than columns", _weighted),
        Case("greedy_cover", "all equal", _flat),
    ]
    for name, make in {
        "one token": _attention(1, 1, 1, 1, 4),
        "odd sizes, padding": _attention(2, 2, 37, 37, 24, (37, 20)),
        "more keys than queries": _attention(1, 2, 5, 150, 32),
        "more queries than a tile": _attention(1, 1, 141, 70, 72),
        "a view with strides": _strided,
    }.items():
        found.append(Case("attention_received", name, make, typed=True))
    found.append(
        Case("attention_received", "4,096 tokens, 16 heads", _attention(1, 16, 4096, 4096, 80), True, True)
    )
    for name, make in {
        "one token": _match(1, (1,), (1,)),
        "odd sizes, padding, ties": _match(37, (37, 20), (9, 20), prefix=1),
        "fewer receivers and a penalty": _penalised,
    }.items():
        found.append(Case("bipartite_match", name, make, typed=True))
    found.append(Case("bipartite_match", "2,880 tokens", _match(2880, (2880,), (1000,)), True, True))
    for name, make in {
        "one token": _merge(1, 1, 3),
        "odd sizes": _merge(2, 23, 13),
        "wide": _merge(1, 18, 640),
    }.items():
        found.append(Case("bipartite_merge", name, make, typed=True))
    found += [
        Case("bipartite_merge", "8 x 2,880 tokens, width 3,584", _merge(8, 2880, 3584), True, True),
        Case("bipartite_merge", "32,768 tokens, width 3,584", _merge(1, 32768, 3584), True, True),
    ]
    for name, make in {
        "one token": _density(1, 3, (1,), (1,)),
        "odd sizes, padding, ties": _density(71, 19, (71, 40), (6, 40)),
        "noise": _density(20, 5, (20,), (3,), noise=True),
    }.items():
        found.append(Case("density_peaks", name, make, typed=True))
    found.append(
        Case("density_peaks", "2,880 tokens, width 1,024", _density(2880, 1024, (2880,), (64,)), True, True)
    )
    found.append(Case("density_peaks", "32,768 tokens", _density(32768, 64, (32768,), (64,)), True, True))
    for name, make in {
        "one token": _gather(1, 1, 1, 3),
        "odd sizes": _gather(2, 23, 10, 13),
        "wide": _gather(2, 18, 9, 64),
    }.items():
        found.append(Case("gather_rows", name, make, typed=True))
    found += [
        Case("gather_rows", "8 x 2,880 to 576 tokens, 7B", _gather(8, 2880, 576, 3584, 4, 128), True, True),
        Case(
            "gather_rows", "32,768 to 16,384 tokens, 7B", _gather(1, 32768, 16384, 3584, 4, 128), True, True
        ),
    ]
    for name, make in {
        "one row": _sum(1, 1, 3, 1),
        "odd sizes, empty rows": _sum(23, 30, 13, 19),
        "wide": _sum(9, 6, 640, 30),
    }.items():
        found.append(Case("sum_rows", name, make, typed=True))
    found.append(
        Case("sum_rows", "23,040 to 4,608 tokens, width 3,584", _sum(23040, 4608, 3584, 23040), True, True)
    )
    return [case for case in found if large or not case.large]
