"""Small vision-language models trained on the generated scenes, shipped with the package.

``folder(name)`` is a plain Hugging Face folder; ``python -m autotc.proxies.train`` makes one again
and ``python -m autotc.proxies.evaluate_card`` measures it.
"""

from __future__ import annotations

from pathlib import Path

NAMES = ("qwen2_5_vl-tiny",)


def folder(name: str) -> Path:
    """Return the folder of a shipped proxy model.

    Raises:
        FileNotFoundError: no proxy of that name is in this installation.
    """
    path = Path(__file__).with_name(name)
    if name not in NAMES or not (path / "config.json").is_file():
        raise FileNotFoundError(f"no proxy model {name!r}; known: {', '.join(NAMES)}")
    return path
