"""Operations that reducers lean on, in plain torch: the reference, which runs everywhere."""

from __future__ import annotations

from autotc.kernels.attention import attention_received, attention_row
from autotc.kernels.greedy import greedy_cover, greedy_select, greedy_volume
from autotc.kernels.matching import bipartite_match, bipartite_merge

__all__ = [
    "attention_received",
    "attention_row",
    "bipartite_match",
    "bipartite_merge",
    "greedy_cover",
    "greedy_select",
    "greedy_volume",
]
