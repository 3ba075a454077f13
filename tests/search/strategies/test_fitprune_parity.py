"""The search for FitPrune's recipe against the authors' own, on a small decoder of random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autotc import kernels
from autotc.reducers.fitprune import from_text
from autotc.search.strategies.fitprune import bisect, fit
from tests.reducers.golden_cases import Case, cases

HIDDEN, FFN = "flops_hidden", "flops_ffn"


class Decoder:
    """One example on its way through the case's decoder, which deletes tokens inside its layers."""

    def __init__(self, case: Case, i: int) -> None:
        p = case.params
        self.w = {k: case[f"in_W{k}"].float() for k in "qkvogud"}
        self.x = case["in_embeds"][i].float()
        self.heads, self.start, self.n, self.layer = p["heads"], p["sys_len"], p["n_vis"], 0
        self.place = torch.arange(len(self.x))
        width = p["dim"] // p["heads"]
        self.frequencies = p["rope_base"] ** (-torch.arange(0, width, 2) / width)

    def _rotated(self, x: Tensor) -> Tensor:
        angle = self.place[:, None] * self.frequencies
        cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    def attention(self) -> tuple[Tensor, Tensor]:
        x, layer, n = self.x, self.layer, self.n
        normed = F.rms_norm(x, x.shape[-1:], eps=1e-6)
        q, k, v = (
            (normed @ self.w[name][layer].T).view(len(x), self.heads, -1).transpose(0, 1) for name in "qkv"
        )
        logits = self._rotated(q) @ self._rotated(k).mT / q.shape[-1] ** 0.5
        weights = logits.masked_fill(
            torch.ones_like(logits[0], dtype=torch.bool).triu(1), -torch.inf
        ).softmax(-1)
        self.out = (weights @ v).transpose(0, 1).flatten(1)
        columns = weights[None, :, self.start :, self.start : self.start + n]
        text = columns[:, :, n:]
        own = kernels.peak_attention(columns[:, :, :n], torch.ones(1, n, dtype=torch.bool))
        return from_text(text)[0] / text.shape[2], own[0]

    def delete(self, gone: Tensor) -> None:
        left = torch.ones(len(self.x), dtype=torch.bool)
        left[self.start + gone] = False
        layer = self.layer
        x = self.x[left] + self.out[left] @ self.w["o"][layer].T
        normed = F.rms_norm(x, x.shape[-1:], eps=1e-6)
        gate, up = (normed @ self.w[name][layer].T for name in "gu")
        self.x = x + (F.silu(gate) * up) @ self.w["d"][layer].T
        self.place, self.n, self.layer = self.place[left], self.n - len(gone), layer + 1


def flops(before: np.ndarray, after: np.ndarray, d: int, m: int) -> np.ndarray:
    """The authors' count of one layer: visual tokens only, deletion between attention and its output."""
    return 3 * before * d**2 + 2 * before**2 * d + after * d**2 + 3 * after * d * m


@pytest.mark.parametrize("case", cases("llm", "fitprune_search"))
def test_fitprune_search_parity(case: Case) -> None:
    p, n = case.params, case.params["n_vis"]
    sizes = p[HIDDEN], p[FFN]
    masses = np.zeros((p["n_samples"], p["layers"], 2))
    none = torch.zeros(0, dtype=torch.long)
    for i in range(p["n_samples"]):
        whole = Decoder(case, i)
        for layer in range(p["layers"]):
            masses[i, layer] = [float(mass.double().sum()) for mass in whole.attention()]
            whole.delete(none)
    np.testing.assert_allclose(masses[..., 0], case["out_weightsum_cross"], atol=1e-4)
    np.testing.assert_allclose(masses[..., 1], case["out_weightsum_self"], atol=1e-4)
    dense = p["layers"] * flops(np.array(n), np.array(n), *sizes)

    def within(deleted: np.ndarray) -> bool:
        left = n - deleted.cumsum(1)
        before = np.concatenate([np.full((len(left), 1), n), left[:, :-1]], 1)
        return bool(flops(before, left, *sizes).sum(1).mean() <= (1 - p["reduction_ratio"]) * dense)

    def run(share: float) -> tuple[np.ndarray, bool]:
        return fit([Decoder(case, i) for i in range(p["n_samples"])], masses, share, within)

    last, best, trace = bisect(run)
    assert trace == [(share, bool(met)) for share, met in case["out_alpha_trace"].tolist()]
    # the authors print the recipe of the last share that they tried, whether or not it met the budget
    assert (last.sum(0) // p["n_samples"]).tolist() == case["out_scheme"].tolist()
    assert (best is None) == (not any(met for _, met in trace)) and (best is None or within(best))
