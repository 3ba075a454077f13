"""The schema's version: what a database holds, whether it may be used, how it is brought up to date."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, column, inspect, select, table

from autotc.errors import StoreError
from autotc.store import schema

SCRIPTS = "autotc.store:migrations"

# Optuna's tables that mark a database as one it may share with us.
_OPTUNA = frozenset({"studies", "trials", "version_info"})


@dataclass(frozen=True)
class Revision:
    """What was found: `empty` (nothing, or only Optuna), `current`, `older`, `newer` or `foreign`."""

    state: Literal["empty", "current", "older", "newer", "foreign"]
    id: str | None = None
    tables: tuple[str, ...] = ()


def head() -> str:
    """Return the newest revision this autotc knows."""
    return schema.REVISIONS[-1]


def read_revision(connection: Connection) -> Revision:
    """Return which schema a database holds, without changing it."""
    found = frozenset(inspect(connection).get_table_names())
    tables = tuple(sorted(found))
    if schema.VERSION_TABLE in found:
        version = connection.scalar(select(column("version_num")).select_from(table(schema.VERSION_TABLE)))
        if version == head():
            return Revision("current", version, tables)
        if version in schema.REVISIONS:
            return Revision("older", version, tables)
        if version is not None:
            return Revision("newer", version, tables)
    if found & schema.TABLES or (found and not found >= _OPTUNA):
        return Revision("foreign", None, tables)
    return Revision("empty", None, tables)


def usable(revision: Revision, shown_url: str) -> bool:
    """Return whether a database can be read now; False when it is still empty.

    Raises:
        StoreError: it holds an older or a newer schema, or another program's tables.
    """
    if revision.state == "older":
        raise StoreError(
            f"{shown_url}: the database has schema {revision.id}, this autotc uses {head()}. "
            "Bring it up to date, nothing is lost: autotc db upgrade"
        )
    refuse(revision, shown_url)
    return revision.state == "current"


def refuse(revision: Revision, shown_url: str) -> None:
    """Refuse what not even an upgrade can use.

    Raises:
        StoreError: it holds a newer schema, or another program's tables.
    """
    if revision.state == "newer":
        known = re.fullmatch(r"v(\d+\.\d+\.\d+)\.\w+", revision.id or "")
        needed = f"autotc {known[1]} or newer" if known else "a newer autotc"
        raise StoreError(
            f"{shown_url}: the database has schema {revision.id}, made by a newer autotc; this one knows "
            f"up to {head()}. It needs {needed}: pip install --upgrade autotc, "
            "or name another database with --storage"
        )
    if revision.state == "foreign":
        names = ", ".join(revision.tables[:4]) + (", ..." if len(revision.tables) > 4 else "")
        raise StoreError(
            f"{shown_url}: the database belongs to another program (its tables: {names}). Nothing was "
            "written. Name another one with --storage sqlite:///autotc.db"
        )


def migrate(connection: Connection) -> None:
    """Bring the schema to the newest revision, inside the caller's transaction."""
    # only here: Alembic takes a while to import, and most commands never change a schema
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    config.attributes["connection"] = connection
    command.upgrade(config, head())
