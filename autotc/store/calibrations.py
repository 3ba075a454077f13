"""Calibrations in the store: entered once, filled anchor by anchor, finished with a result that may be renewed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, update

from autotc.errors import StoreError
from autotc.policy import Number, Policy
from autotc.store import columns, engine, write
from autotc.store.database import Database
from autotc.store.rows import AnchorRow, CalibrationRow
from autotc.store.schema import Anchor, Calibration

KEY = ("model_fingerprint", "proxy_fingerprint", "data_fingerprint", "examples")


class Calibrations(Database):
    """What a database knows of how far proxies can be trusted."""

    def start_calibration(
        self,
        model: str,
        model_fingerprint: str,
        proxy: str,
        proxy_fingerprint: str,
        data_fingerprint: str,
        examples: int,
    ) -> CalibrationRow:
        """Enter a calibration, or take up the one of these weights, data and number of examples."""
        values = {
            "model": model,
            "model_fingerprint": model_fingerprint,
            "proxy": proxy,
            "proxy_fingerprint": proxy_fingerprint,
            "data_fingerprint": data_fingerprint,
            "examples": examples,
        }
        with self._write() as connection:
            made = engine.upsert(connection.dialect.name, Calibration).values(
                **values, created=datetime.now(UTC)
            )
            connection.execute(made.on_conflict_do_nothing(index_elements=list(KEY)))
            return _read(connection, [getattr(Calibration, name) == values[name] for name in KEY])[0]

    def add_anchor(
        self,
        calibration_id: int,
        label: str,
        share: float,
        policy: Policy,
        costs: Mapping[str, Any],
        numbers: Sequence[Number] = (),
        outcomes: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        """Write an anchor that was measured on both models, or could not be; one of the same policy is replaced."""
        row = {
            "calibration_id": calibration_id,
            "policy_id": policy.id,
            "label": label,
            "share": share,
            "policy": policy.model_dump(mode="json", by_alias=True, exclude_none=True),
            "costs": columns.plain(costs, "costs"),
            "numbers": [n.model_dump(mode="json", exclude_none=True) for n in numbers],
            "outcomes": None if outcomes is None else columns.plain(outcomes, "outcomes"),
            "reason": reason,
        }
        with self._write() as connection:
            _known(connection, calibration_id, self.url_shown)
            write.put(connection, Anchor, ("calibration_id", "policy_id"), [row])

    def finish_calibration(self, calibration_id: int, result: Mapping[str, Any]) -> None:
        """Write what came of a calibration; a former result, of fewer anchors, is replaced."""
        values = {"result": columns.plain(result, "result"), "finished": datetime.now(UTC)}
        with self._write() as connection:
            _known(connection, calibration_id, self.url_shown)
            connection.execute(update(Calibration).where(Calibration.id == calibration_id).values(**values))

    def calibration(
        self, model_fingerprint: str, proxy_fingerprint: str, data_fingerprint: str
    ) -> CalibrationRow | None:
        """Return the latest finished calibration of these weights on this data, or None."""
        wanted = (model_fingerprint, proxy_fingerprint, data_fingerprint)
        same = [getattr(Calibration, name) == value for name, value in zip(KEY, wanted, strict=False)]
        found = self._calibrations(*same, Calibration.finished.is_not(None))
        return max(found, key=lambda row: (row.finished, row.id)) if found else None

    def calibrations(self) -> list[CalibrationRow]:
        """Return all calibrations, unfinished ones included, oldest first."""
        return self._calibrations()

    def _calibrations(self, *where: ColumnElement[bool]) -> list[CalibrationRow]:
        if not self._ready():
            return []
        with self._read() as connection:
            return _read(connection, where)


def _known(connection: Connection, calibration_id: int, shown: str) -> None:
    if connection.scalar(select(Calibration.id).where(Calibration.id == calibration_id)) is None:
        raise StoreError(f"{shown}: there is no calibration with id {calibration_id}")


def _read(connection: Connection, where: Sequence[ColumnElement[bool]]) -> list[CalibrationRow]:
    anchors: dict[int, list[AnchorRow]] = defaultdict(list)
    chosen = (
        select(*Anchor.__table__.columns)
        .join(Calibration, Anchor.calibration_id == Calibration.id)
        .where(*where)
        .order_by(Anchor.calibration_id, Anchor.share.desc(), Anchor.label)
    )
    for row in connection.execute(chosen):
        anchors[row.calibration_id].append(
            AnchorRow(
                row.label,
                row.share,
                Policy.model_validate(row.policy),
                row.costs,
                [Number.model_validate(n) for n in row.numbers],
                row.outcomes,
                row.reason,
            )
        )
    found = connection.execute(select(*Calibration.__table__.columns).where(*where).order_by(Calibration.id))
    return [CalibrationRow(**row._mapping, anchors=anchors[row.id]) for row in found]
