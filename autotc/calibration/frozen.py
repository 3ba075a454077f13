"""What a calibration holds for: the generator's source, the digits, a proxy's weights."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


@cache
def frozen(proxy: str) -> dict[str, str]:
    """Return short hashes; where one differs from the calibrated one, the calibration has to be run again.

    Args:
        proxy: name of a folder under `autotc/proxies`.
    """
    tasks, folder = PACKAGE / "tasks", PACKAGE / "proxies" / proxy
    return {
        "generator": _hash(tasks / "scenes.py", tasks / "_questions.py"),
        "digits": _hash(tasks / "digits.npz"),
        "weights": _hash(folder / "model.safetensors", folder / "config.json"),
    }


def _hash(*paths: Path) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
