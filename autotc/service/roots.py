"""Which files a search that came over the network may name: those below the folders that were configured."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotc.adapter import known_aliases
from autotc.errors import SpecError

# parts of other address languages than a plain path: encoded characters, other separators, schemes, home folders
_FOREIGN = re.compile(r"%[0-9A-Fa-f]{2}|\\|://|^~|^file:")


@dataclass(frozen=True)
class Roots:
    """Folders below which models and data may lie; without any, only names of models and the built-in data.

    Args:
        models: folders of models.
        datas: folders of data files.
    """

    models: tuple[Path, ...] = ()
    datas: tuple[Path, ...] = ()

    @staticmethod
    def of(models: Sequence[Path], datas: Sequence[Path]) -> Roots:
        """Return roots with every link resolved.

        Raises:
            SpecError: one is not a folder.
        """
        for option, given in (("--model-root", models), ("--data-root", datas)):
            for folder in given:
                if not folder.is_dir():
                    raise SpecError(f"{option}: {folder} is not a folder")
        return Roots(tuple(p.resolve() for p in models), tuple(p.resolve() for p in datas))

    def model(self, name: str) -> str:
        """Return an alias as it is, or the folder below a root that a path stands for.

        Raises:
            SpecError: neither.
        """
        if name.lower() in known_aliases():
            return name.lower()
        found = _inside(name, self.models)
        if found is None or not (found / "config.json").is_file():
            raise SpecError(
                "model: neither an alias (see: autotc list models) nor a model folder below a --model-root"
            )
        return str(found)

    def data(self, name: str) -> str:
        """Return the file below a root that a path stands for.

        Raises:
            SpecError: there is none, or it is not below a root; which of both is not said.
        """
        found = _inside(name, self.datas)
        if found is None or not found.is_file():
            raise SpecError("data: not a file below a --data-root")
        return str(found)

    def pictures(self, data: Path) -> None:
        """Check that the pictures which a data file names lie below a root as well.

        Raises:
            SpecError: one does not; the message names the line.
        """
        for number, line in enumerate(data.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            for name in _named(line):
                path = (data.parent / name).resolve()
                if not any(path.is_relative_to(root) for root in self.datas):
                    raise SpecError(f"{data.name}, line {number}: the picture is not below a --data-root")


def _inside(text: str, roots: Sequence[Path]) -> Path | None:
    """Return the existing place below a root that a text names, links resolved; None where there is none."""
    if not text or not text.isprintable() or _FOREIGN.search(text) or ".." in Path(text).parts:
        return None
    for root in roots:
        try:
            path = (root / text).resolve(strict=True)
        except (OSError, RuntimeError):  # not there, not to be entered, too long, links in a circle
            continue
        if path.is_relative_to(root):
            return path
    return None


def _named(line: str) -> list[str]:
    try:
        document: Any = json.loads(line)
    except (ValueError, RecursionError):
        return []  # the reader of the file says what is wrong with the line
    image = document.get("image") if isinstance(document, dict) else None
    return [name for name in (image if isinstance(image, list) else [image]) if isinstance(name, str)]
