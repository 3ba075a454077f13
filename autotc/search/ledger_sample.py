"""Made-up histories on Optuna's side of a study, written in bulk: what benchmarks ask and tell beside.

Optuna itself writes a trial of 28 parameters in some 60 statements; 100,000 of them would take an hour.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Engine, func, insert, select, text

from autotc.search._ledger import Ledger
from autotc.search.strategies.default import DRAWN_MARK
from autotc.store.sample import Made


def add_history(ledger: Ledger, made: Sequence[Made], distributions: Mapping[str, BaseDistribution]) -> None:
    """Write trials as if they had been asked for and told, in the order of their numbers, after those there are.

    Args:
        made: trials with values for all of the distributions.
    """
    words = {name: distribution_to_json(d) for name, d in distributions.items()}
    now, study = datetime.now(UTC).replace(tzinfo=None), ledger.study._study_id
    finite = models.TrialValueModel.TrialValueType.FINITE
    engine = ledger._storage.engine
    with engine.begin() as connection:
        first = (connection.scalar(select(func.max(models.TrialModel.trial_id))) or 0) + 1
        ids = range(first, first + len(made))
        both = list(zip(ids, made, strict=True))
        trials = [
            {
                "trial_id": i,
                "number": m.number,
                "study_id": study,
                "state": TrialState.RUNNING if m.state == "running" else TrialState.COMPLETE,
                "datetime_start": now,
                "datetime_complete": None if m.state == "running" else now,
            }
            for i, m in both
        ]
        params = [
            {
                "trial_id": i,
                "param_name": name,
                "param_value": distributions[name].to_internal_repr(value),
                "distribution_json": words[name],
            }
            for i, m in both
            for name, value in m.params.items()
        ]
        values = [
            {"trial_id": i, "objective": k, "value": value, "value_type": finite}
            for i, m in both
            if m.state != "running"
            for k, value in enumerate((m.quality, m.cost))
        ]
        constraints = [
            {"trial_id": i, "key": f"constraints:{name}", "value_json": json.dumps(value)}
            for i, m in both
            if m.state != "running"
            for name, value in m.violations.items()
        ]
        attributes = [{"trial_id": i, "key": DRAWN_MARK, "value_json": "true"} for i, _ in both]
        tables = (
            (models.TrialModel, trials),
            (models.TrialParamModel, params),
            (models.TrialValueModel, values),
            (models.TrialSystemAttributeModel, [*constraints, *attributes]),
        )
        for model, rows in tables:
            if rows:
                connection.execute(insert(model.__table__), rows)
    _count_on(engine)


def _count_on(engine: Engine) -> None:
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            newest = "setval(pg_get_serial_sequence('trials', 'trial_id'), max(trial_id))"
            connection.execute(text(f"SELECT {newest} FROM trials"))
