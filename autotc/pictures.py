"""Pictures of what a policy keeps: where they are stored, how they are drawn, how they are read.

They lie in a folder beside the database, one folder a policy, named by the policy's id. `autotc.picturing` runs the
model; here is neither a model nor torch, so that a page may read them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autotc.errors import DataError
from autotc.export import write_text
from autotc.store.engine import parse_url, sqlite_file

if TYPE_CHECKING:
    from PIL.Image import Image

EXAMPLES = 12  # drawn of each policy
SIDE = 336  # px of the longer side
DROPPED, MERGED = 0.12, 0.45  # how much of a token's colour is left
LINE = (86, 180, 233)
_FILE = Field(pattern=r"^\d{1,4}(-\d{1,3})?\.webp$")


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Seen(_Closed):
    """What is left of one image after a stage: counts of its original tokens, and the picture's file."""

    kept: int
    merged: int
    dropped: int
    file: str = _FILE


class Looked(_Closed):
    """One example under a policy.

    Args:
        wanted: the reference answer; None where the data has none.
        before, after: answers of the uncompressed model and under the policy.
        right_before, right_after: their scores.
        stages: one entry a stage of the policy.
    """

    id: str
    group: str
    question: str
    wanted: str | None
    before: str
    after: str
    right_before: float
    right_after: float
    tokens: int
    file: str = _FILE
    stages: list[Seen]


class Pictures(_Closed):
    """The pictures of one policy: which model ran, on which split, and the examples."""

    schema_: Literal["autotc/pictures/1"] = Field(default="autotc/pictures/1", alias="schema")
    policy: str
    on: str
    split: str
    stages: list[str]
    examples: list[Looked]


def folder(storage: str | None) -> Path:
    """Return where the pictures of a database are: beside its file, or as AUTOTC_PICTURES says.

    A database that is no file has them in `autotc.pictures` in the working directory.
    """
    given = os.environ.get("AUTOTC_PICTURES")
    if given:
        return Path(given)
    file = sqlite_file(parse_url(storage))
    return Path("autotc.pictures") if file is None else file.with_suffix(".pictures")


def place(root: Path, policy: str) -> Path:
    """Return the folder of a policy's pictures.

    Args:
        policy: its id, hexadecimal digits.

    Raises:
        DataError: that is not an id.
    """
    if len(policy) < 16 or set(policy) - set("0123456789abcdef"):
        raise DataError(f"{policy[:40]!r} is not the id of a policy")
    return root / policy[:32]


def command(study: str, evaluated_on: str, trial: int | None = None) -> str:
    """Return the command that draws what a study's front keeps, or one of its trials."""
    words = ["autotc", "eval", "--study", study, "--pictures", str(EXAMPLES)]
    words += [] if trial is None else ["--trial", str(trial)]
    return shlex.join(words) + ("" if evaluated_on.startswith("proxy:") else " --model FOLDER")


def read(root: Path, policy: str) -> Pictures | None:
    """Return what is known of a policy's pictures; None where there are none.

    Raises:
        DataError: the description cannot be read.
    """
    path = place(root, policy) / "index.json"
    try:
        return Pictures.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise DataError(f"{path}: {error}; make the pictures again: autotc eval --pictures 12") from error


def write(root: Path, found: Pictures, images: dict[str, Image]) -> Path:
    """Write pictures and then their description; return the folder.

    Args:
        images: by file name.

    Raises:
        DataError: the folder cannot be written to.
    """
    to = place(root, found.policy)
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            image.save(to / name, "WEBP", quality=85, method=4)
    except OSError as error:
        raise DataError(f"{to}: pictures cannot be written: {error.strerror or error}") from error
    write_text(to / "index.json", found.model_dump_json(by_alias=True, indent=1) + "\n")
    return to


def fitted(image: Image, grid: tuple[int, int]) -> Image:
    """Return an image in the size of a grid of (rows, columns) of tokens, all of the same size."""
    cell = max(4, SIDE // max(grid))
    return image.convert("RGB").resize((grid[1] * cell, grid[0] * cell))


def drawn(image: Image, grid: tuple[int, int], targets: Sequence[int | None]) -> Image:
    """Return an image that shows what becomes of its tokens.

    A token that stays keeps its colours; one that goes into another is dimmed, with a line to where it goes; one that
    is dropped is nearly grey.

    Args:
        image: as `fitted` gives it.
        grid: rows and columns of tokens.
        targets: for each token where it goes (itself: it stays); None: it is dropped.
    """
    import numpy as np
    from PIL import Image as images
    from PIL import ImageDraw

    rows, columns = grid
    cell = image.width // columns
    ground = np.asarray(image, dtype=np.float32)
    level = ground.mean(axis=2, keepdims=True)
    left = np.array([1.0 if t == i else DROPPED if t is None else MERGED for i, t in enumerate(targets)])
    weight = left.reshape(rows, columns).repeat(cell, 0).repeat(cell, 1)[..., None]
    grey = np.where(weight <= DROPPED, 0.35 * level + 150, level)
    out = images.fromarray((weight * ground + (1 - weight) * grey).astype(np.uint8))
    pen = ImageDraw.Draw(out)
    for i, t in enumerate(targets):
        if t is not None and t != i:
            pen.line([_middle(i, columns, cell), _middle(t, columns, cell)], fill=LINE, width=1)
    for i, t in enumerate(targets):
        if t == i:
            y, x = divmod(i, columns)
            pen.rectangle(
                [x * cell, y * cell, (x + 1) * cell - 1, (y + 1) * cell - 1], outline=(255, 255, 255)
            )
    return out


def _middle(token: int, columns: int, cell: int) -> tuple[float, float]:
    y, x = divmod(token, columns)
    return (x + 0.5) * cell, (y + 0.5) * cell


def described(found: Any) -> str:
    """Return one stage in a few words."""
    layer = "" if found.layer is None else f"@{found.layer}"
    return f"{found.site}{layer} {found.reducer} {found.keep:.1%}"
