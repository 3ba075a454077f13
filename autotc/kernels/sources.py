"""The CUDA sources beside this file, each as one text."""

from __future__ import annotations

import re
from importlib.resources import files

NAMES = ("greedy", "attention", "rows", "density")
_INCLUDE = re.compile(r'^#include "(\w+)\.cuh"$', re.MULTILINE)


def text(name: str, device: str | None = None) -> str:
    """Return a source with what it includes in its place, so that a compiler needs no folder and a cache sees all.

    Args:
        name: of `NAMES`.
        device: text to use instead of `device.cuh`.
    """
    seen: set[str] = set()

    def included(match: re.Match[str]) -> str:
        part = match[1]
        if part in seen:
            return ""
        seen.add(part)
        if part == "device" and device is not None:
            return device
        return expanded(_read(f"{part}.cuh"))

    def expanded(source: str) -> str:
        return _INCLUDE.sub(included, source.replace("#pragma once\n", ""))

    return expanded(_read(f"{name}.cu"))


def kernel_names(name: str) -> list[str]:
    """Return the kernels of a source."""
    return re.findall(r"^KERNEL (\w+)\(", _read(f"{name}.cu"), re.MULTILINE)


def _read(file: str) -> str:
    return (files("autotc.kernels") / file).read_text(encoding="utf-8")
