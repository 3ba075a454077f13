"""Outputs of the authors' code: `tests/golden/`, or the folder in AUTOTC_GOLDEN_DIR (same layout)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

FOLDER = Path(os.environ.get("AUTOTC_GOLDEN_DIR") or Path(__file__).parents[1] / "golden")


@dataclass(frozen=True)
class Case:
    """One case: the authors' knobs, inputs `in_*` and outputs `out_*` as tensors."""

    path: Path
    params: dict[str, Any]

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path) as arrays:
            return dict(arrays)

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self._arrays[name]))

    def texts(self, name: str) -> list[str]:
        """Return an array of strings."""
        return [str(text) for text in self._arrays[name].tolist()]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays


def cases(group: str, method: str) -> list[Any]:
    """Return the cases of a method as pytest parameters; none if the folder has none."""
    index = FOLDER / group / "golden.json"
    if not index.exists():
        return []
    entries = json.loads(index.read_text())["cases"]
    return [
        pytest.param(Case(FOLDER / group / entry["file"], entry.get("params", {})), id=entry["file"])
        for entry in entries
        if entry["method"] == method
    ]
