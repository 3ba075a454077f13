"""The tables, as SQLAlchemy declarative classes; `migrations/` holds the same schema as a history.

Value objects that are JSON already (policy, spec, costs) stay JSON; only what is filtered by has a column.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Double, ForeignKey, Index, MetaData, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

# Every revision, oldest first. The id carries the first autotc that knows it, so that an older autotc
# which meets a newer database can say which version it needs.
REVISIONS: tuple[str, ...] = ("v0.1.0.a", "v0.1.0.b", "v0.1.0.c", "v0.1.0.d", "v0.1.0.e")

# Optuna keeps its tables in the same database and its version in Alembic's default table, hence our own.
VERSION_TABLE = "autotc_alembic_version"


class UtcTime(TypeDecorator[datetime]):
    """A moment, stored as naive UTC (SQLite has no time zones) and read back with its time zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Drop the time zone after converting to UTC."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the stored moment its time zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of all tables; constraints have names, so that a later migration can find them."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
        }
    )
    type_annotation_map = {
        str: Text,
        float: Double,
        datetime: UtcTime,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


class Study(Base):
    """One search: what was asked, for which model, evaluated on what."""

    __tablename__ = "study"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    fingerprint: Mapped[str]
    state: Mapped[str]
    spec: Mapped[dict[str, Any]]
    model: Mapped[dict[str, Any]]
    evaluated_on: Mapped[str]
    created: Mapped[datetime]
    # of several workers one measures the front on the other splits
    closer: Mapped[str | None]
    closer_until: Mapped[datetime | None]
    # how often what is shown of it has changed
    changes: Mapped[int] = mapped_column(default=0, server_default="0")


class Environment(Base):
    """Versions and machine that trials of a study were run with; runs that are alike share one."""

    __tablename__ = "environment"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    json: Mapped[dict[str, Any]]
    created: Mapped[datetime]


class PolicyDocument(Base):
    """What a policy id stands for: schema, family, positions and stages; shared by its trials."""

    __tablename__ = "policy"

    id: Mapped[str] = mapped_column(primary_key=True)
    json: Mapped[dict[str, Any]]


class Trial(Base):
    """One policy in one study. `key` is what makes it unique: the number, or the label of a reference."""

    __tablename__ = "trial"
    __table_args__ = (
        UniqueConstraint("study_id", "role", "key"),
        Index(None, "study_id", "changed"),
        Index(None, "study_id", "role", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    role: Mapped[str]
    key: Mapped[str]
    number: Mapped[int | None]
    label: Mapped[str | None]
    policy_id: Mapped[str] = mapped_column(ForeignKey("policy.id"), index=True)
    # the part of the policy document that its id leaves out: checkpoint, status, expected, provenance
    header: Mapped[dict[str, Any]]
    params: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    state: Mapped[str]
    violations: Mapped[dict[str, Any]]
    reason: Mapped[str | None]
    seconds: Mapped[float | None]
    created: Mapped[datetime]
    finished: Mapped[datetime | None]
    # evaluation processes that ended while they ran it
    losses: Mapped[int] = mapped_column(default=0, server_default="0")
    # what it was run with; None before it is finished, and where an older autotc ran it
    environment_id: Mapped[int | None] = mapped_column(ForeignKey("environment.id"))
    # which change of the study was its latest
    changed: Mapped[int] = mapped_column(default=0, server_default="0")


class Metric(Base):
    """One figure of a trial with everything needed to trust it; `split` is '' for figures without one."""

    __tablename__ = "metric"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    on: Mapped[str] = mapped_column("measured_on", primary_key=True)
    value: Mapped[float]
    unit: Mapped[str]
    stderr: Mapped[float | None]
    n: Mapped[int | None]


class Cost(Base):
    """The predicted costs of a trial's policy, totals and by part."""

    __tablename__ = "cost"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    json: Mapped[dict[str, Any]]


class Example(Base):
    """An example of a study's data: written once, so that outcomes hold two integers and not three texts."""

    __tablename__ = "example"
    __table_args__ = (UniqueConstraint("study_id", "split", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    split: Mapped[str]
    name: Mapped[str]
    image: Mapped[str | None]
    group: Mapped[str | None] = mapped_column("question_group")


class Outcome(Base):
    """What one trial did on one example. `blind` and `full` are the references it is compared with."""

    __tablename__ = "outcome"
    __table_args__ = {"sqlite_with_rowid": False}

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    example_id: Mapped[int] = mapped_column(ForeignKey("example.id"), primary_key=True)
    correct: Mapped[float | None]
    agreement: Mapped[float | None]
    kl: Mapped[float | None]
    next_correct: Mapped[float | None]
    blind: Mapped[float | None]
    full: Mapped[float | None]
    answer: Mapped[str | None]


class Trace(Base):
    """Visual tokens asked for and really kept at a stage, means over the examples."""

    __tablename__ = "trace"
    __table_args__ = {"sqlite_with_rowid": False}

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    stage: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    asked: Mapped[float]
    kept: Mapped[float]


class Lease(Base):
    """Who works on a trial, and until when others leave it alone."""

    __tablename__ = "lease"

    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id"), primary_key=True)
    worker: Mapped[str]
    taken: Mapped[datetime]
    expires: Mapped[datetime] = mapped_column(index=True)


class Look(Base):
    """One look at a split that is not searched on; their number belongs to every claim made from it."""

    __tablename__ = "look"
    __table_args__ = (Index(None, "study_id", "split"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    split: Mapped[str]
    why: Mapped[str]
    created: Mapped[datetime]


class Front(Base):
    """A published front: written once, never changed."""

    __tablename__ = "front"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    budget: Mapped[dict[str, Any]]
    created: Mapped[datetime]


class FrontMember(Base):
    """A member of a published front, with its figures as they were at publication."""

    __tablename__ = "front_member"

    front_id: Mapped[int] = mapped_column(ForeignKey("front.id"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    trial_id: Mapped[int] = mapped_column(ForeignKey("trial.id"))
    numbers: Mapped[list[Any]]
    costs: Mapped[dict[str, Any]]


class Calibration(Base):
    """How far a proxy can be trusted for one model on one data set; `result` is there when it is finished."""

    __tablename__ = "calibration"
    __table_args__ = (
        UniqueConstraint("model_fingerprint", "proxy_fingerprint", "data_fingerprint", "examples"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    model_fingerprint: Mapped[str]
    proxy: Mapped[str]
    proxy_fingerprint: Mapped[str]
    data_fingerprint: Mapped[str]
    examples: Mapped[int]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created: Mapped[datetime]
    finished: Mapped[datetime | None]


class Anchor(Base):
    """A policy measured on both, or the reason why it could not be; `outcomes` has columns by model."""

    __tablename__ = "anchor"

    calibration_id: Mapped[int] = mapped_column(ForeignKey("calibration.id"), primary_key=True)
    policy_id: Mapped[str] = mapped_column(primary_key=True)
    label: Mapped[str]
    share: Mapped[float]
    policy: Mapped[dict[str, Any]]
    costs: Mapped[dict[str, Any]]
    numbers: Mapped[list[Any]]
    outcomes: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    reason: Mapped[str | None]


class Job(Base):
    """A search that was asked for; any worker takes it up. `study` is known from then on."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(index=True)
    spec: Mapped[dict[str, Any]]
    study: Mapped[str | None]
    submitted_by: Mapped[str | None]
    reason: Mapped[str | None]
    created: Mapped[datetime]
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]


class Token(Base):
    """A bearer token of the HTTP service, known by the digest of its secret only."""

    __tablename__ = "token"
    __table_args__ = (UniqueConstraint("name"), UniqueConstraint("digest"))

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    digest: Mapped[str]
    scopes: Mapped[list[Any]]
    created: Mapped[datetime]
    revoked: Mapped[datetime | None]


TABLES = frozenset(Base.metadata.tables)
