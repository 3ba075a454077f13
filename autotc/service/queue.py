"""Searches that were asked for and wait for a worker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from autotc.errors import SpecError
from autotc.search.spec import SearchSpec
from autotc.service.roots import Roots
from autotc.store import JobRow, Store

LONGEST_TEXT = 2000
LARGEST = 1_000_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
WORKERS_OWN = ("storage", "workers", "executor", "device")  # which a worker decides for itself


def submit(store: Store, spec: SearchSpec) -> JobRow:
    """Queue a search from a command line, whose user may name any path.

    Raises:
        SpecError: a text or a number that no search can use.
    """
    _check(spec)
    return store.add_job(_asked(spec))


def submit_over_http(store: Store, spec: SearchSpec, roots: Roots, by: str) -> JobRow:
    """Queue a search from the network: its model and data have to lie below the roots, nothing is downloaded.

    Args:
        by: name of the token.

    Raises:
        SpecError: a path outside the roots, an option that is not taken over HTTP, or a value that no search can use.
    """
    _check(spec)
    for name in ("storage", "download"):
        if getattr(spec, name):
            raise SpecError(f"{name}: not taken over HTTP; it is for those who run the workers")
    places = {"model": roots.model(spec.model), "data": None if spec.data is None else roots.data(spec.data)}
    return store.add_job(_asked(spec.model_copy(update=places)), by)


def spec_of(asked: Mapping[str, Any], device: str) -> SearchSpec:
    """Return a queued search as one worker runs it.

    Raises:
        SpecError: it was queued by an autotc with other options.
    """
    return SearchSpec.from_options({**asked, "device": device})


def _asked(spec: SearchSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude=set(WORKERS_OWN), exclude_defaults=True)


def _check(spec: SearchSpec) -> None:
    if spec.study is not None and not NAME.fullmatch(spec.study):
        raise SpecError(
            "study: a name has letters, digits, '.', '_' and '-', begins with a letter or digit, and has at most "
            "100 characters"
        )
    spec.all_constraints()
    for name, value in spec:
        if isinstance(value, int) and value > LARGEST and name != "seed":
            raise SpecError(f"{name}: at most {LARGEST}")
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and (len(text) > LONGEST_TEXT or not text.isprintable()):
                raise SpecError(f"{name}: at most {LONGEST_TEXT} printable characters")
