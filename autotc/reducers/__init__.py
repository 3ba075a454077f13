"""The zoo: one file a method. `get(name)` returns its class, `names()` lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotc.reducer import Reducer


def get(name: str) -> type[Reducer]:
    """Return the reducer class called `name`, e.g. `get("fastv")(heads="mean").assign(view, 64)`."""
    from autotc.reducer import reducers

    return reducers.get(name)


def names() -> tuple[str, ...]:
    """Return the names of all reducers, sorted."""
    from autotc.reducer import reducers

    return reducers.names()
