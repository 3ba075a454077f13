"""`db`: looking after the database."""

from __future__ import annotations

import typer

from autotc import __version__
from autotc.cli.options import Storage


def upgrade(storage: Storage = None) -> None:
    """Bring the database to this version's schema."""
    from autotc.store import Store

    store = Store(storage, check=False)
    store.upgrade()
    typer.echo(f"{store.url_shown}: schema is up to date")


def check(storage: Storage = None) -> None:
    """Say whether the database fits this version, and what to do if not."""
    from autotc.store import Store

    store = Store(storage, check=False)
    store.check()
    typer.echo(f"{store.url_shown}: fits autotc {__version__}")
