"""The colours of every picture: Okabe and Ito's, distinguishable with every common colour vision."""

from __future__ import annotations

COLOURS: dict[str, str] = {
    "front": "#0072B2",
    "trial": "#B8C4CE",
    "reference": "#D55E00",
    "preset": "#009E73",
    "chosen": "#000000",
    "limit": "#6B7280",
}
PARTS: dict[str, str] = {
    "tower": "#56B4E9",
    "projector": "#F0E442",
    "prefill": "#0072B2",
    "decode": "#CC79A7",
    "lm_head": "#999999",
    "reducers": "#D55E00",
}
