"""Operations that reducers lean on, in plain torch: the reference, which runs everywhere."""

from __future__ import annotations

from autotc.kernels.attention import (
    attention_flow,
    attention_received,
    attention_row,
    content_attention,
    mean_query_attention,
    peak_attention,
    transition,
)
from autotc.kernels.greedy import greedy_cover, greedy_select, greedy_volume
from autotc.kernels.matching import bipartite_match, bipartite_merge

__all__ = [
    "attention_flow",
    "attention_received",
    "attention_row",
    "bipartite_match",
    "bipartite_merge",
    "content_attention",
    "greedy_cover",
    "greedy_select",
    "greedy_volume",
    "mean_query_attention",
    "peak_attention",
    "transition",
]
