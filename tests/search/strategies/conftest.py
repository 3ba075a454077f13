"""The fakes have no weights, so what strategies would measure of them is made here."""

from __future__ import annotations

import numpy as np
import pytest

from autotc.search.strategies import fitprune
from autotc.search.strategies.attention import Attention
from tests.fakes import PROXY

EXAMPLES, TOKENS = 6, 96


def attention() -> Attention:
    """Attention that gathers on fewer tokens with depth."""
    rng = np.random.default_rng(0)
    layers = PROXY.decoder.layers
    sharp = np.linspace(0.5, 4.0, layers)[:, None]
    cross, own = (np.exp(sharp * rng.standard_normal((EXAMPLES, layers, TOKENS))) for _ in range(2))
    tokens = TOKENS - np.arange(EXAMPLES) % 2  # examples differ in one token, so that padding is met
    for values in (cross, own):
        values[1::2, :, -1] = 0
        values /= values.sum(-1, keepdims=True)
    return Attention(cross, own, tokens, "fake")


@pytest.fixture(autouse=True)
def _attention_of_the_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitprune, "attention_of", lambda evaluated, strategy: attention())
