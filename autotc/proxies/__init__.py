"""Small vision-language models trained on the generated scenes, shipped with the package.

A proxy is a plain Hugging Face folder named after its family, "<family>-tiny"; ``python -m autotc.proxies.train``
makes one again and ``python -m autotc.proxies.evaluate_card`` measures it.
"""

from __future__ import annotations

from pathlib import Path


def names() -> tuple[str, ...]:
    """Return the names of the proxies in this installation, sorted."""
    return tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/config.json")))


def folder(name: str) -> Path:
    """Return the folder of a shipped proxy model.

    Raises:
        FileNotFoundError: no proxy of that name is in this installation.
    """
    if name not in names():
        raise FileNotFoundError(f"no proxy model {name!r}; known: {', '.join(names())}")
    return Path(__file__).with_name(name)


def proxy_folder(family: str) -> Path | None:
    """Return the folder of a family's proxy model, or None where no proxy ships for it."""
    name = f"{family}-tiny"
    return folder(name) if name in names() else None
