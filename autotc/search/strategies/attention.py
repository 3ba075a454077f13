"""What visual tokens receive in each layer of the evaluated model, of one instrumented forward an example."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from autotc.anatomy import Anatomy
from autotc.errors import SpecError

FILE = "attention.npz"  # beside the weights; proxies ship theirs


@dataclass(frozen=True)
class Attention:
    """Attention that the visual tokens of S examples receive in L layers, largest over heads.

    Args:
        cross: (S, L, N) from the text behind the image, mean over its tokens; 0 behind an example's last token.
        own: (S, L, N) from the image itself, mean over its tokens.
        tokens: (S,) visual tokens of each example.
        on: the model that was run.
    """

    cross: np.ndarray
    own: np.ndarray
    tokens: np.ndarray
    on: str

    def write(self, path: Path) -> None:
        """Write a compressed .npz in half precision, replacing the last one at once."""
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez_compressed(
                file,
                cross=self.cross.astype(np.float16),
                own=self.own.astype(np.float16),
                tokens=self.tokens,
                on=self.on,
            )
        os.replace(part, path)

    @staticmethod
    def read(path: Path) -> Attention:
        """Read what `write` wrote.

        Raises:
            SpecError: the file is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                cross, own = (file[name].astype(np.float64) for name in ("cross", "own"))
                return Attention(cross, own, file["tokens"], str(file["on"]))
        except (OSError, ValueError, KeyError) as error:
            raise SpecError(
                f"{path}: not what `autotc bench attention` writes ({error}); delete it and measure again"
            ) from error


def attention_of(evaluated: Anatomy, strategy: str) -> Attention:
    """Return what was measured of the model that a study runs.

    Args:
        evaluated: the model; its id is its folder.
        strategy: who asks, for the message.

    Raises:
        SpecError: nothing was measured, or of a model of another depth.
    """
    path = Path(evaluated.id) / FILE
    if not path.is_file():
        raise SpecError(
            f"--strategy {strategy}: it fits the attention of the model that runs, and {path} is not there. "
            f"Measure it: autotc bench attention --model {evaluated.id}"
        )
    found = _read(path, path.stat().st_mtime_ns)
    if found.cross.shape[1] != evaluated.decoder.layers:
        raise SpecError(
            f"{path}: holds {found.cross.shape[1]} layers, the model has {evaluated.decoder.layers}. "
            f"Measure it again: autotc bench attention --model {evaluated.id}"
        )
    return found


@lru_cache(4)
def _read(path: Path, changed: int) -> Attention:
    return Attention.read(path)
