"""The description of the HTTP service against the service: requests made from it, answers held to it."""

from __future__ import annotations

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from autotc.service import tokens
from autotc.service.api import make_app
from autotc.service.roots import Roots
from autotc.store import Store

CASES = int(os.environ.get("AUTOTC_SCHEMA_CASES", "25"))  # of each operation
OPERATIONS = (
    ("GET", "/healthz"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{job_id}"),
    ("POST", "/v1/jobs/{job_id}/stop"),
    ("GET", "/v1/jobs/{job_id}/events"),
    ("GET", "/v1/studies"),
    ("GET", "/v1/studies/{study}/front"),
    ("GET", "/v1/studies/{study}/policy"),
)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_requests_made_from_the_description(store: Store, roots: Roots, method: str, path: str) -> None:
    """Right and wrong ones: no error of the service, no status, type or body that the description does not know."""
    job = store.add_job({"model": "qwen2.5-vl"})
    store.start_job(job.id, "done")
    store.end_job(job.id, "finished")
    app = make_app(store, roots)
    headers = {
        "Authorization": f"Bearer {tokens.create(store, 'all', ['read', 'submit'])[1]}",
        "Host": "127.0.0.1",
    }
    described = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    assert {(o.ok().method.upper(), o.ok().path) for o in described.get_all_operations()} == set(OPERATIONS)

    @given(case=described[path][method].as_strategy())
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def run(case: schemathesis.Case) -> None:
        # which models and data there are is not for a schema to say: a right one may be refused, in words
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

    run()
