"""The zoo: one file a method. `get(name)` returns its class, `names()` lists them."""

from __future__ import annotations


def get(name: str):  # type: ignore[no-untyped-def]
    """Return the reducer class called `name`, e.g. `get("fastv")(heads="mean").assign(view, 64)`."""
    from autotc.reducer import reducers

    return reducers.get(name)


def names() -> tuple[str, ...]:
    """Return the names of all reducers, sorted."""
    from autotc.reducer import reducers

    return reducers.names()
