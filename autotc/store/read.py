"""The queries that read: each returns finished rows, in a fixed number of statements however many trials."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from autotc.policy import Number
from autotc.store import columns
from autotc.store.rows import FrontMemberRow, FrontRow, LeaseRow, LookRow, StudyRow, TrialRow, join_policy
from autotc.store.schema import (
    Cost,
    Environment,
    Example,
    Front,
    FrontMember,
    Look,
    Metric,
    Outcome,
    PolicyDocument,
    Study,
    Trace,
    Trial,
)


def studies(connection: Connection, name: str | None) -> list[StudyRow]:
    """Return the study of a name, or all of them, oldest first."""
    where = [] if name is None else [Study.name == name]
    counted = (
        select(Trial.study_id, Trial.state, func.count())
        .where(Trial.role == "trial", Trial.study_id.in_(select(Study.id).where(*where)))
        .group_by(Trial.study_id, Trial.state)
    )
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    for study_id, state, count in connection.execute(counted):
        counts[study_id][state] = count
    made_with: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for study_id, found in connection.execute(
        select(Environment.study_id, Environment.json).order_by(Environment.id)
    ):
        made_with[study_id].append(found)
    shown = [c for c in Study.__table__.columns if c.name in StudyRow.__dataclass_fields__]
    rows = connection.execute(select(*shown).where(*where).order_by(Study.id))
    return [StudyRow(**r._mapping, counts=counts[r.id], environments=made_with[r.id]) for r in rows]


def trials(connection: Connection, where: Iterable[ColumnElement[bool]]) -> list[TrialRow]:
    """Return the trials that fit all conditions, in the order they were entered."""
    conditions = list(where)
    chosen = (
        select(
            *Trial.__table__.columns,
            PolicyDocument.json,
            Study.name.label("study"),
            Environment.json.label("environment"),
        )
        .join(PolicyDocument, Trial.policy_id == PolicyDocument.id)
        .join(Study, Trial.study_id == Study.id)
        .outerjoin(Environment, Trial.environment_id == Environment.id)
        .where(*conditions)
        .order_by(Trial.id)
    )
    numbers: dict[int, list[Number]] = defaultdict(list)
    figures = select(*Metric.__table__.columns).join(Trial, Metric.trial_id == Trial.id).where(*conditions)
    for row in connection.execute(figures.order_by(Metric.trial_id, Metric.name, Metric.split, Metric.kind)):
        numbers[row.trial_id].append(
            Number(
                name=row.name,
                value=row.value,
                unit=row.unit,
                kind=row.kind,
                on=row.measured_on,
                split=row.split or None,
                stderr=row.stderr,
                n=row.n,
            )
        )
    cost = select(Cost.trial_id, Cost.json).join(Trial, Cost.trial_id == Trial.id).where(*conditions)
    costs = {row.trial_id: row.json for row in connection.execute(cost)}
    trace: dict[int, list[dict[str, float]]] = defaultdict(list)
    stages = select(*Trace.__table__.columns).join(Trial, Trace.trial_id == Trial.id).where(*conditions)
    for row in connection.execute(stages.order_by(Trace.trial_id, Trace.stage)):
        trace[row.trial_id].append({"stage": row.stage, "asked": row.asked, "kept": row.kept})
    return [
        TrialRow(
            id=row.id,
            study=row.study,
            number=row.number,
            role=row.role,
            label=row.label,
            state=row.state,
            policy=join_policy(row.json, row.header),
            numbers=numbers[row.id],
            costs=costs.get(row.id, {}),
            violations=row.violations,
            trace=trace[row.id],
            reason=row.reason,
            params=row.params,
            seconds=row.seconds,
            created=row.created,
            finished=row.finished,
            environment_id=row.environment_id,
            environment=row.environment,
        )
        for row in connection.execute(chosen)
    ]


def outcomes(connection: Connection, trial_id: int, split: str) -> columns.Columns:
    """Return a trial's outcomes on a split, ordered by the study's examples."""
    chosen = (
        select(
            Example.name,
            Example.image,
            Example.group,
            *(getattr(Outcome, name) for name in (*columns.FLOATS, *columns.TEXTS)),
        )
        .join(Example, Outcome.example_id == Example.id)
        .where(Outcome.trial_id == trial_id, Example.split == split)
        .order_by(Example.id)
    )
    return columns.to_columns([tuple(row) for row in connection.execute(chosen)])


def leases(connection: Connection, rows: Sequence[Any]) -> list[LeaseRow]:
    """Complete rows of (trial_id, worker, expires) with the study and the number of the trial."""
    whose = (
        select(Trial.id, Study.name, Trial.number)
        .join(Study, Trial.study_id == Study.id)
        .where(Trial.id.in_([row.trial_id for row in rows]))
    )
    known = {id_: (study, number) for id_, study, number in connection.execute(whose)}
    return [LeaseRow(r.trial_id, *known[r.trial_id], r.worker, r.expires) for r in rows]


def looks(connection: Connection, study_id: int, split: str | None) -> list[LookRow]:
    """Return the looks of a study at a split (all when None), oldest first."""
    where = [Look.study_id == study_id] + ([] if split is None else [Look.split == split])
    chosen = select(Look.split, Look.why, Look.created).where(*where).order_by(Look.id)
    return [LookRow(*row) for row in connection.execute(chosen)]


def latest_front(
    connection: Connection, study_id: int
) -> tuple[int, dict[str, Any], list[dict[str, Any]]] | None:
    """Return the newest front of a study as (id, budget, members as stored)."""
    newest = (
        select(Front.id, Front.budget).where(Front.study_id == study_id).order_by(Front.id.desc()).limit(1)
    )
    front = connection.execute(newest).one_or_none()
    if front is None:
        return None
    chosen = select(FrontMember.rank, FrontMember.trial_id, FrontMember.numbers, FrontMember.costs)
    rows = connection.execute(chosen.where(FrontMember.front_id == front.id).order_by(FrontMember.rank))
    return front.id, front.budget, [dict(row._mapping) for row in rows]


def fronts(connection: Connection, study_id: int) -> list[FrontRow]:
    """Return the fronts of a study, oldest first, each with its members by rank."""
    members: dict[int, list[FrontMemberRow]] = defaultdict(list)
    chosen = (
        select(*FrontMember.__table__.columns)
        .join(Front, FrontMember.front_id == Front.id)
        .where(Front.study_id == study_id)
        .order_by(FrontMember.front_id, FrontMember.rank)
    )
    for row in connection.execute(chosen):
        numbers = [Number.model_validate(n) for n in row.numbers]
        members[row.front_id].append(FrontMemberRow(row.rank, row.trial_id, numbers, row.costs))
    published = (
        select(Front.id, Study.name, Front.budget, Front.created)
        .join(Study, Front.study_id == Study.id)
        .where(Front.study_id == study_id)
        .order_by(Front.id)
    )
    return [FrontRow(r.id, r.name, r.budget, r.created, members[r.id]) for r in connection.execute(published)]
