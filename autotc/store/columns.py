"""Per-example outcomes between columns (what the evaluator and the charts use) and rows (what SQL holds)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotc.errors import StoreError
from autotc.registry import nearest

EXAMPLE = ("id", "image", "group")
FLOATS = ("correct", "agreement", "kl", "next_correct", "blind", "full")
TEXTS = ("answer",)
COLUMNS = (*EXAMPLE, *FLOATS, *TEXTS)

Columns = dict[str, npt.NDArray[Any]]


def to_rows(outcomes: Any) -> list[dict[str, Any]]:
    """Return one dictionary an example, with all of `COLUMNS`; what is missing or NaN is None.

    Args:
        outcomes: a mapping, or an object with attributes, of equally long columns; `id` is required.

    Raises:
        StoreError: an unknown column, columns of different lengths, or an example twice.
    """
    if isinstance(outcomes, Mapping):
        for name in outcomes:
            if name not in COLUMNS:
                raise StoreError(f"outcomes: unknown column {name!r}. {nearest(str(name), COLUMNS)}")
        given = {name: outcomes.get(name) for name in COLUMNS}
    else:
        given = {name: getattr(outcomes, name, None) for name in COLUMNS}
    if given["id"] is None:
        raise StoreError("outcomes: the column 'id' (of the examples) is missing")
    n = len(given["id"])
    columns: list[Sequence[Any]] = []
    for name, values in given.items():
        if values is None:
            columns.append([None] * n)
            continue
        if len(values) != n:
            raise StoreError(f"outcomes.{name}: {len(values)} values for {n} examples")
        columns.append(_floats(values) if name in FLOATS else [_text(v) for v in values])
    if len(set(columns[0])) < n:
        raise StoreError("outcomes.id: an example is there twice")
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def to_columns(rows: Iterable[Sequence[Any]]) -> Columns:
    """Return rows in the order of `COLUMNS` as arrays: float64 (NaN where missing), texts as objects."""
    transposed = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    result: Columns = {}
    for name, values in zip(COLUMNS, transposed, strict=True):
        if name in FLOATS:
            result[name] = np.array([math.nan if v is None else v for v in values], dtype=np.float64)
        else:
            result[name] = np.array(values, dtype=object)
    return result


def _floats(values: Any) -> list[float | None]:
    numbers = (None if v is None else float(v) for v in values)
    return [None if v is None or math.isnan(v) else v for v in numbers]


def _text(value: Any) -> str | None:
    # a model may write what no database stores: half a surrogate pair, or a NUL
    if value is None:
        return None
    return str(value).encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def plain(value: Any, where: str) -> Any:
    """Return a value as JSON stores it: numpy scalars become Python's, tuples lists.

    Raises:
        StoreError: NaN, infinity, or something JSON has no word for; the message names the place.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise StoreError(f"{where}: {value} is not a figure; leave out what is missing")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StoreError(
        f"{where}: {type(value).__name__} cannot be stored; use numbers, texts, lists and dictionaries"
    )
