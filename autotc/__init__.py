"""autotc: search, evaluate and apply visual-token compression policies for vision-language models."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_policy": "autotc.policy",
    "Policy": "autotc.policy",
    "compress": "autotc.apply",
    "TokenView": "autotc.reducer",
    "Assignment": "autotc.assignment",
    "anatomy": "autotc.adapter",
    "estimate": "autotc.cost",
    "Store": "autotc.store",
    "reducers": None,
}
__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autotc' has no attribute {name!r}")
    module = _PUBLIC[name]
    if module is None:
        return importlib.import_module(f"autotc.{name}")
    return getattr(importlib.import_module(module), name)
