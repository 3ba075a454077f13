"""What a run is made with: versions of the packages that matter, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autotc import __version__

PACKAGES = ("torch", "transformers", "optuna", "numpy", "scipy", "sqlalchemy")
SHOWN = ("torch", "transformers", "optuna")  # those named in one line


def environment() -> dict[str, Any]:
    """Return versions and machine of this process as plain data.

    Returns:
        {"autotc", "python", one entry an installed package, "platform", "cpu", "cores" (that this process may use),
        "gpu": the names of the cards, none where there is no NVIDIA driver}.
    """
    from autotc.measure import cards

    found: dict[str, Any] = {"autotc": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    system = f"{platform.system()} {platform.machine()}"
    return {**found, "platform": system, "cpu": _processor(), "cores": _cores(), "gpu": cards()}


def described(found: Mapping[str, Any] | None) -> str:
    """Write versions and machine in one line; what was run before autotc kept them has none."""
    if not found:
        return "not recorded"
    packages = [f"autotc {found.get('autotc', '?')}", f"Python {found.get('python', '?')}"]
    packages += [f"{name} {found[name]}" for name in SHOWN if name in found]
    return f"{', '.join(packages)}; {machine(found)}"


def machine(found: Mapping[str, Any]) -> str:
    """Write the machine alone."""
    counted = Counter(found.get("gpu") or ())
    gpu = ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counted.items()) or "no GPU"
    cores = found.get("cores", "?")
    return f"{found.get('cpu', 'unknown CPU')}, {cores} core{'' if cores == 1 else 's'}, {gpu}"


def _processor() -> str:
    """Return the model of the CPU, or its architecture where the system does not say."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        if platform.system() == "Darwin":
            asked = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
            )
            if asked.stdout.strip():
                return asked.stdout.strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def grouped(found: Iterable[Mapping[str, Any] | None]) -> list[tuple[str, int]]:
    """Return the different environments in words, each with how many have it, the most frequent first."""
    return Counter(described(one) for one in found).most_common()
