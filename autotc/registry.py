"""Discovery of plug-in modules and the wording of near misses.

A package such as `autotc.reducers` holds one module an entry; the module's name is the entry's name. Nothing is
listed by hand, so adding a file is all it takes.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Generic, TypeVar

from autotc.errors import SpecError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that proposes the closest of the known names, or lists them."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "Known: " + ", ".join(choices) + "."


class Registry(Generic[T]):
    """The entries of a package: modules that each define one concrete subclass of a base class.

    Args:
        package: dotted name of the package, e.g. "autotc.reducers".
        base: the class whose subclass each module defines; the subclass carries `name`, equal to the module's name.
        kind: the word used in messages, e.g. "reducer".
    """

    def __init__(self, package: str, base: type[T], kind: str) -> None:
        self._package = package
        self._base = base
        self.kind = kind

    @cache  # noqa: B019 - registries are module-level singletons
    def names(self) -> tuple[str, ...]:
        """Return the names of all entries, sorted, without importing them."""
        package = importlib.import_module(self._package)
        return tuple(
            sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
        )

    @cache  # noqa: B019
    def get(self, name: str) -> type[T]:
        """Return the class registered under a name.

        Raises:
            SpecError: no such entry; the message names the nearest ones.
        """
        if name not in self.names():
            raise SpecError(
                f"unknown {self.kind} {name!r}. {nearest(name, self.names())} See: autotc list {self.kind}s"
            )
        module = importlib.import_module(f"{self._package}.{name}")
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, self._base)
            and value.__module__ == module.__name__
            and getattr(value, "name", None) == name
        ]
        if len(found) != 1:
            raise TypeError(f"{module.__name__} must define exactly one {self.kind} called {name!r}")
        return found[0]

    def all(self) -> tuple[type[T], ...]:
        """Return every registered class, in the order of the names."""
        return tuple(self.get(name) for name in self.names())
