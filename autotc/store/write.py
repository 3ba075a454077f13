"""The writes that many rows go through: insert or replace, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, func, insert, select, update

from autotc.policy import Number
from autotc.store import columns, engine
from autotc.store.schema import Base, Environment, Example, Metric, Outcome, Study, Trial


def count_change(
    connection: Connection, study_id: int, trial_id: int | None = None, written: bool = False
) -> None:
    """Count a change of a study, and of one of its trials; the last statements of a transaction.

    The study's row is locked from here to the commit, so that a reader who has seen a count has seen all before it.
    Every writer locks the trial before the study, so that no two wait for one another.

    Args:
        written: whether this transaction has written the trial's own row, and so locked it.
    """
    if trial_id is not None and not written:
        connection.execute(select(Trial.id).where(Trial.id == trial_id).with_for_update())
    counted = update(Study).where(Study.id == study_id).values(changes=Study.changes + 1)
    at = connection.execute(counted.returning(Study.changes)).scalar_one()
    if trial_id is not None:
        connection.execute(update(Trial).where(Trial.id == trial_id).values(changed=at))


def put(
    connection: Connection,
    table: type[Base],
    key: tuple[str, ...],
    rows: list[dict[str, Any]],
    keep_old: bool = False,
) -> None:
    """Insert rows, or replace those whose `key` is there; with `keep_old` a None replaces nothing."""
    if rows:
        connection.execute(_statement(connection.dialect.name, table, key, tuple(rows[0]), keep_old), rows)


@cache
def _statement(
    dialect: str, table: type[Base], key: tuple[str, ...], names: tuple[str, ...], keep_old: bool
) -> Insert:
    # built once: making it takes longer than writing a trial's outcomes
    target = table.__table__
    made = engine.upsert(dialect, target)
    change = {
        name: func.coalesce(made.excluded[name], target.c[name]) if keep_old else made.excluded[name]
        for name in names
        if name not in key
    }
    return made.on_conflict_do_update(index_elements=list(key), set_=change)


def numbers(connection: Connection, trial_id: int, given: Iterable[Number]) -> None:
    """Write the figures of a trial; one of the same name, split, kind and model is replaced."""
    rows = [{**n.model_dump(), "split": n.split or "", "trial_id": trial_id} for n in given]
    for row in rows:
        row["measured_on"] = row.pop("on")
    put(connection, Metric, ("trial_id", "name", "split", "kind", "measured_on"), rows)


def environment(connection: Connection, study_id: int, wanted: dict[str, Any], now: datetime) -> int:
    """Return the id of a study's environment, which is written where it is not there yet."""
    known = select(Environment.id, Environment.json).where(Environment.study_id == study_id)
    for row in connection.execute(known):
        if row.json == wanted:
            return int(row.id)
    made = insert(Environment).values(study_id=study_id, json=wanted, created=now)
    return int(connection.execute(made.returning(Environment.id)).scalar_one())


def outcomes(
    connection: Connection, trial_id: int, study_id: int, split: str, rows: list[dict[str, Any]]
) -> None:
    """Write outcomes of a trial, and the examples that the study has not met yet."""
    known = select(Example.name, Example.id).where(Example.study_id == study_id, Example.split == split)
    ids = {row.name: row.id for row in connection.execute(known)}
    new = [
        {
            "study_id": study_id,
            "split": split,
            "name": r["id"],
            "image": r["image"],
            "question_group": r["group"],
        }
        for r in rows
        if r["id"] not in ids
    ]
    if new:
        made = engine.upsert(connection.dialect.name, Example.__table__)
        connection.execute(made.on_conflict_do_nothing(index_elements=["study_id", "split", "name"]), new)
        ids = {row.name: row.id for row in connection.execute(known)}
    kept = (*columns.FLOATS, *columns.TEXTS)
    values = [{"trial_id": trial_id, "example_id": ids[r["id"]], **{k: r[k] for k in kept}} for r in rows]
    put(connection, Outcome, ("trial_id", "example_id"), values, keep_old=True)
