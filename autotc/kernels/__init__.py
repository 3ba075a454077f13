"""Operations that reducers lean on: a plain-torch reference of each, which is the definition and runs everywhere.

Some have a CUDA twin, which runs where a CUDA tensor comes in (`dispatch`): `.cu` files beside their references,
launched through CuPy, which nothing imports before.
"""

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
from autotc.kernels.density import density_peaks
from autotc.kernels.dispatch import use
from autotc.kernels.greedy import greedy_cover, greedy_select, greedy_volume
from autotc.kernels.matching import bipartite_match, bipartite_merge
from autotc.kernels.rows import gather_rows, sum_rows

__all__ = [
    "attention_flow",
    "attention_received",
    "attention_row",
    "bipartite_match",
    "bipartite_merge",
    "content_attention",
    "density_peaks",
    "gather_rows",
    "greedy_cover",
    "greedy_select",
    "greedy_volume",
    "mean_query_attention",
    "peak_attention",
    "sum_rows",
    "transition",
    "use",
]
