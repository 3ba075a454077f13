"""What the store hands out: frozen rows with typed values, each with a JSON-ready `as_dict()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from autotc.policy import Number, Policy

# The parts of a policy document that its id leaves out; they belong to the trial, not to the shared policy.
HEADER = ("model", "status", "expected", "provenance")


def _plain(value: Any) -> Any:
    if isinstance(value, Policy):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(value, Number):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Row):
        return value.as_dict()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


class Row:
    """Base of all rows."""

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON values; times as ISO 8601 in UTC."""
        return {name: _plain(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class StudyRow(Row):
    """A study. `counts` holds the number of its trials by state, references left out; `environments` what its
    trials were run with, as `autotc.environment` gives it.
    """

    id: int
    name: str
    fingerprint: str
    state: str
    spec: dict[str, Any]
    model: dict[str, Any]
    evaluated_on: str
    created: datetime
    counts: dict[str, int] = field(default_factory=dict)
    environments: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class TrialRow(Row):
    """A trial. `violations` are > 0 where a limit is broken; `trace` has one {stage, asked, kept} a stage;
    `environment` is what it was run with, as `autotc.environment` gives it, None where nobody recorded it.
    """

    id: int
    study: str
    number: int | None
    role: str
    label: str | None
    state: str
    policy: Policy
    numbers: list[Number]
    costs: dict[str, Any]
    violations: dict[str, float]
    trace: list[dict[str, float]]
    reason: str | None
    params: dict[str, Any] | None
    seconds: float | None
    created: datetime
    finished: datetime | None
    environment_id: int | None = None
    environment: dict[str, Any] | None = None

    def number_of(self, name: str, split: str | None = None) -> Number | None:
        """Return the figure of that name (and split, when given), or None when it was not taken."""
        found = [n for n in self.numbers if n.name == name and (split is None or n.split == split)]
        return found[0] if found else None


@dataclass(frozen=True)
class LeaseRow(Row):
    """A lease that ran out: the trial nobody works on any more."""

    trial_id: int
    study: str
    number: int | None
    worker: str
    expires: datetime


@dataclass(frozen=True)
class JobRow(Row):
    """A search that was asked for: queued, running, stopping; then finished, stopped or failed with a reason.

    `submitted_by` names the token it came with over HTTP; None for one from a command line.
    """

    id: int
    state: str
    spec: dict[str, Any]
    study: str | None
    submitted_by: str | None
    reason: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None


@dataclass(frozen=True)
class TokenRow(Row):
    """A bearer token; its secret is not stored."""

    name: str
    scopes: list[str]
    created: datetime
    revoked: datetime | None


@dataclass(frozen=True)
class LookRow(Row):
    """A look at a split."""

    split: str
    why: str
    created: datetime


@dataclass(frozen=True)
class FrontMemberRow(Row):
    """A member of a published front with its figures at publication."""

    rank: int
    trial_id: int
    numbers: list[Number]
    costs: dict[str, Any]


@dataclass(frozen=True)
class FrontRow(Row):
    """A published front."""

    id: int
    study: str
    budget: dict[str, Any]
    created: datetime
    members: list[FrontMemberRow]


@dataclass(frozen=True)
class AnchorRow(Row):
    """A policy of a calibration.

    `share` of the tokens names its budget; `numbers` are the qualities on both models; `outcomes` holds by "model"
    and "proxy" the columns id, image, correct and full. One that could not be run has only a `reason`.
    """

    label: str
    share: float
    policy: Policy
    costs: dict[str, Any]
    numbers: list[Number]
    outcomes: dict[str, dict[str, list[Any]]] | None
    reason: str | None


@dataclass(frozen=True)
class CalibrationRow(Row):
    """What is known of a proxy's order for one model and data; `result` is None until it is finished."""

    id: int
    model: str
    model_fingerprint: str
    proxy: str
    proxy_fingerprint: str
    data_fingerprint: str
    examples: int
    result: dict[str, Any] | None
    created: datetime
    finished: datetime | None
    anchors: list[AnchorRow] = field(default_factory=list)


def split_policy(policy: Policy) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a policy as (document shared by every trial of its id, header of this one)."""
    document = policy.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(HEADER))
    return document, policy.model_dump(mode="json", by_alias=True, include=set(HEADER))


def join_policy(document: Mapping[str, Any], header: Mapping[str, Any]) -> Policy:
    """Put the two halves of `split_policy` together again."""
    return Policy.model_validate({**document, **header})
